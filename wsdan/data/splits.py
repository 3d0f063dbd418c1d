"""The pictures of a run, whatever kind of data they come from."""

from pathlib import Path
from typing import Literal

from wsdan.config import Config
from wsdan.data.folder import list_folder
from wsdan.data.samples import Listing, Split, make_split
from wsdan.errors import UserError


def open_split(
    config: Config, split: Literal["train", "val"], classes: list[str] | None = None
) -> Split:
    """The samples of one split and the class names.

    Args:
        config: resolved, with `data` any kind but synthetic.
        classes: the names a model was trained on; labels are then indices into them.

    Raises:
        UserError: a missing file or folder, no picture, fewer than two classes, or a class that is
            not in `classes`.
    """
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"--root: no such folder: {root}")
    return make_split(_list(config.data, root, split), classes)


def _list(data: str, root: Path, split: str) -> Listing:
    if data == "folder":
        return list_folder(root, split)
    raise ValueError(f"data must be a kind that has a folder, but got {data!r}")
