"""The samples of a run, from whichever dataset layout."""

import importlib
from typing import Literal

from wsdan.config import Config
from wsdan.data.formats import left_out_text
from wsdan.data.readers._remote import check_layout
from wsdan.data.samples import Listing, Split, assign_labels
from wsdan.distributed import warn_main
from wsdan.errors import UserError
from wsdan.remote.addresses import RemotePath, place
from wsdan.validation import check_folder

MOST_NAMED = 5  # classes or shards that a warning lists


def open_split(
    config: Config, split: Literal["train", "val"], classes: list[str] | None = None
) -> Split:
    """Read one split with the reader of `config.data`, wsdan/data/readers/NAME.py.

    Rank 0 warns of files that are left out, of classes without an image and of what is lost in
    damaged shards.

    Args:
        config: resolved; `data` is any choice but synthetic.
        classes: the class names a model was trained on; labels are then indices into them.

    Raises:
        UserError: a missing file or folder, no image, fewer than two classes, a class that is not
            in `classes`, a class without training images without `allow_empty`, or a damaged shard
            without `skip_bad_images`.
    """
    root = place(config.root)
    check_folder("--root", config.root)
    if isinstance(root, RemotePath):
        check_layout(config.data, root)
    reader = importlib.import_module(f"wsdan.data.readers.{config.data}")
    listing = reader.read(root, split)
    if listing.damage and not config.skip_bad_images:
        raise UserError(f"{listing.damage[0]} (--skip-bad-images goes on with what is whole)")
    if classes is None and listing.empty and not config.allow_empty:
        raise UserError(
            f"{listing.where}/{listing.empty[0]}: the class folder holds no image "
            "(--allow-empty keeps such classes)"
        )
    found = assign_labels(listing, classes)
    for line in _warnings(listing, found.classes):
        warn_main(line)
    return found


def _warnings(listing: Listing, classes: list[str]) -> list[str]:
    lines = [*listing.notes, *listing.damage[:MOST_NAMED]]
    if len(listing.damage) > MOST_NAMED:
        lines.append(f"{listing.where}: {len(listing.damage)} damaged shards")
    if listing.left_out:
        lines.append(f"{listing.where}: {left_out_text(listing.left_out)}")
    filled = {record.class_name for record in listing.records}
    lacking = [name for name in classes if name not in filled]
    if lacking:
        more = f" and {len(lacking) - MOST_NAMED} more" if len(lacking) > MOST_NAMED else ""
        names = ", ".join(lacking[:MOST_NAMED])
        lines.append(f"{listing.where}: no image of the class {names}{more}")
    return lines
