"""The lists that CUB-200-2011 and NABirds share: text files with an image's number on each line."""

from pathlib import Path

from wsdan.data.readers._layout import read_key_values, require_images, require_path
from wsdan.data.samples import Box, ImageRecord
from wsdan.errors import UserError

LISTS = ("images", "image_class_labels", "train_test_split", "classes")


def read_tables(folder: Path, data: str, source: str) -> dict[str, dict[str, str]]:
    """The lines `KEY VALUE` of the four lists, by the list's name without .txt.

    Raises UserError for a missing list or images folder; `source` says where to get it.
    """
    tables = {}
    for stem in LISTS:
        tables[stem] = read_key_values(require_path(folder / f"{stem}.txt", data, source), data)
    require_path(folder / "images", data, source)
    return tables


def read_records(folder: Path, tables: dict, data: str, split: str) -> list[ImageRecord]:
    """The images of one split, with their boxes if bounding_boxes.txt exists.

    Raises UserError for an image without a line in a list, or a class that is not in classes.txt.
    """
    boxes = folder / "bounding_boxes.txt"
    box_table = read_key_values(boxes, data) if boxes.exists() else {}
    classes = tables["classes"]
    records = []
    for number, name in tables["images"].items():
        for stem in ("image_class_labels", "train_test_split"):
            if number not in tables[stem]:
                raise UserError(
                    f"--data {data}: {folder}/{stem}.txt has no line for image {number}"
                )
        part = tables["train_test_split"][number]
        if part not in ("0", "1"):
            raise UserError(
                f"--data {data}: {folder}/train_test_split.txt: image {number} must have 1 (train) "
                f"or 0; got {part!r}"
            )
        label = tables["image_class_labels"][number]
        if label not in classes:
            raise UserError(
                f"--data {data}: {folder}/image_class_labels.txt: class {label} of image {number} "
                "is not in classes.txt"
            )
        if (part == "1") != (split == "train"):
            continue
        box = _box(box_table[number], boxes, data) if number in box_table else None
        records.append(ImageRecord(folder / "images" / name, classes[label], box))
    require_images(records, data, folder / "images.txt")
    return records


def _box(text: str, path: Path, data: str) -> Box:
    """Parse `x y width height`."""
    try:
        x, y, width, height = map(float, text.split())
    except ValueError:
        raise UserError(f"--data {data}: {path}: expected x y width height; got {text!r}") from None
    return x, y, x + width, y + height
