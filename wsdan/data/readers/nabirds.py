"""NABirds: birds of North America, in CUB's text files and a hierarchy of classes.

classes.txt names every node of hierarchy.txt; the 555 that have images are the classes.
"""

from pathlib import Path

from wsdan.data.readers._layout import first_existing
from wsdan.data.readers._numbered import read_records, read_tables
from wsdan.data.samples import Listing
from wsdan.errors import UserError

LAYOUT = "nabirds/hierarchy.txt"
FOLDER = "nabirds"
SOURCE = "it is part of nabirds.tar.gz, see https://dl.allaboutbirds.org/nabirds"


def recognises(root: Path) -> bool:
    """Whether the folder is, or contains, nabirds."""
    folder = _folder(root)
    return all((folder / name).is_file() for name in ("images.txt", "hierarchy.txt"))


def _folder(root: Path) -> Path:
    return first_existing(root, [f"{FOLDER}/images.txt", "images.txt"]).parent


def read(root: Path, split: str) -> Listing:
    """The images of one split; root is nabirds or the folder that holds it.

    Classes are those that have an image in either split, by number. Boxes are read from
    bounding_boxes.txt if it exists.
    """
    folder = _folder(root)
    tables = read_tables(folder if folder.is_dir() else root, "nabirds", SOURCE)
    records = read_records(folder, tables, "nabirds", split)
    used = set(tables["image_class_labels"].values())
    try:
        numbers = sorted(used, key=int)
    except ValueError:
        path = folder / "image_class_labels.txt"
        raise UserError(f"--data nabirds: {path}: the classes must be numbers") from None
    classes = [tables["classes"][number] for number in numbers]
    return Listing(f"--data nabirds: {split} of {folder}", classes, records)
