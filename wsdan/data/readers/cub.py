"""CUB-200-2011: birds, in the published layout of text files with an image number per line."""

from pathlib import Path

from wsdan.data.readers._layout import (
    first_existing,
    read_key_values,
    require_images,
    require_path,
)
from wsdan.data.samples import Box, ImageRecord, Listing
from wsdan.errors import UserError

LAYOUT = "CUB_200_2011/images.txt"
FOLDER = "CUB_200_2011"
SOURCE = "it is part of CUB_200_2011.tgz, see https://www.vision.caltech.edu/datasets/cub_200_2011/"


def recognises(root: Path) -> bool:
    """Whether the folder is, or contains, CUB_200_2011."""
    return (_folder(root) / "images.txt").is_file()


def _folder(root: Path) -> Path:
    inside = [f"{FOLDER}/images.txt", "images.txt", f"{FOLDER}/{FOLDER}/images.txt"]
    found = first_existing(root, inside).parent
    return found if found.is_dir() else root


def read(root: Path, split: str) -> Listing:
    """The images of one split; root is CUB_200_2011 or the folder that holds it.

    Boxes are read from bounding_boxes.txt if it exists.
    """
    folder = _folder(root)
    tables = {}
    for stem in ("images", "image_class_labels", "train_test_split", "classes"):
        path = require_path(folder / f"{stem}.txt", "cub", SOURCE)
        tables[stem] = read_key_values(path, "cub")
    require_path(folder / "images", "cub", SOURCE)
    boxes = folder / "bounding_boxes.txt"
    box_table = read_key_values(boxes, "cub") if boxes.exists() else {}
    classes = tables["classes"]
    records = []
    for number, name in tables["images"].items():
        for stem in ("image_class_labels", "train_test_split"):
            if number not in tables[stem]:
                raise UserError(f"--data cub: {folder}/{stem}.txt has no line for image {number}")
        part = tables["train_test_split"][number]
        if part not in ("0", "1"):
            raise UserError(
                f"--data cub: {folder}/train_test_split.txt: image {number} must have 1 (train) "
                f"or 0; got {part!r}"
            )
        if (part == "1") != (split == "train"):
            continue
        label = tables["image_class_labels"][number]
        if label not in classes:
            raise UserError(
                f"--data cub: {folder}/image_class_labels.txt: class {label} of image {number} "
                "is not in classes.txt"
            )
        box = _box(box_table[number], boxes) if number in box_table else None
        records.append(ImageRecord(folder / "images" / name, classes[label], box))
    require_images(records, "cub", folder / "images.txt")
    return Listing(f"--data cub: {split} of {folder}", list(classes.values()), records)


def _box(text: str, path: Path) -> Box:
    """Parse `x y width height`."""
    try:
        x, y, width, height = map(float, text.split())
    except ValueError:
        raise UserError(f"--data cub: {path}: expected x y width height; got {text!r}") from None
    return x, y, x + width, y + height
