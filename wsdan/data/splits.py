"""The pictures of a run, whatever kind of data they come from."""

from pathlib import Path
from typing import Literal

from wsdan.config import Config
from wsdan.data.aircraft import list_aircraft
from wsdan.data.cars import list_cars
from wsdan.data.cub import list_cub
from wsdan.data.dogs import list_dogs
from wsdan.data.folder import list_folder
from wsdan.data.samples import Listing, Split, make_split
from wsdan.data.shards import list_shards
from wsdan.data.table import list_table
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
    if data == "cub":
        return list_cub(root, split)
    if data == "aircraft":
        return list_aircraft(root, split)
    if data == "cars":
        return list_cars(root, split)
    if data == "dogs":
        return list_dogs(root, split)
    if data == "csv":
        return list_table(root, split)
    if data == "webdataset":
        return list_shards(root, split)
    raise ValueError(f"data must be a kind that has a folder, but got {data!r}")
