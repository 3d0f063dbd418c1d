"""CUB-200-2011: birds, in the published layout of text files with an image number per line."""

from pathlib import Path

from wsdan.data.readers._layout import first_existing
from wsdan.data.readers._numbered import read_records, read_tables
from wsdan.data.samples import Listing

LAYOUT = "CUB_200_2011/images.txt"
FOLDER = "CUB_200_2011"
SOURCE = "it is part of CUB_200_2011.tgz, see https://www.vision.caltech.edu/datasets/cub_200_2011/"


def recognises(root: Path) -> bool:
    """Whether the folder is, or contains, CUB_200_2011; NABirds also has a hierarchy."""
    folder = _folder(root)
    return (folder / "images.txt").is_file() and not (folder / "hierarchy.txt").is_file()


def _folder(root: Path) -> Path:
    inside = [f"{FOLDER}/images.txt", "images.txt", f"{FOLDER}/{FOLDER}/images.txt"]
    found = first_existing(root, inside).parent
    return found if found.is_dir() else root


def read(root: Path, split: str) -> Listing:
    """The images of one split; root is CUB_200_2011 or the folder that holds it.

    Boxes are read from bounding_boxes.txt if it exists.
    """
    folder = _folder(root)
    tables = read_tables(folder, "cub", SOURCE)
    records = read_records(folder, tables, "cub", split)
    return Listing(f"--data cub: {split} of {folder}", list(tables["classes"].values()), records)
