"""The samples of a run, from whichever dataset layout."""

import importlib
from pathlib import Path
from typing import Literal

from wsdan.config import Config
from wsdan.data.samples import Split, assign_labels
from wsdan.validation import check_folder


def open_split(
    config: Config, split: Literal["train", "val"], classes: list[str] | None = None
) -> Split:
    """Read one split with the reader of `config.data`, wsdan/data/readers/NAME.py.

    Args:
        config: resolved; `data` is any choice but synthetic.
        classes: the class names a model was trained on; labels are then indices into them.

    Raises:
        UserError: a missing file or folder, no image, fewer than two classes, or a class that is
            not in `classes`.
    """
    root = Path(config.root)
    check_folder("--root", root)
    reader = importlib.import_module(f"wsdan.data.readers.{config.data}")
    return assign_labels(reader.read(root, split), classes)
