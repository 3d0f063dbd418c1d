"""The images of a run, whatever layout they are read from."""

import importlib
from pathlib import Path
from typing import Literal

from wsdan.config import Config
from wsdan.data.samples import Split, make_split
from wsdan.errors import UserError


def open_split(
    config: Config, split: Literal["train", "val"], classes: list[str] | None = None
) -> Split:
    """The samples of one split and the class names, by the reader of `config.data`.

    Args:
        config: resolved, with `data` any kind but synthetic.
        classes: the names a model was trained on; labels are then indices into them.

    Raises:
        UserError: a missing file or folder, no image, fewer than two classes, or a class that is
            not in `classes`.
    """
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"--root: no such folder: {root}")
    reader = importlib.import_module(f"wsdan.data.readers.{config.data}")
    return make_split(reader.read(root, split), classes)
