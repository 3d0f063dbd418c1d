"""CUB-200-2011: birds, in the published layout of text files keyed by the number of an image."""

from pathlib import Path

from wsdan.data.readers._layout import expect_file, expect_images, read_table
from wsdan.data.samples import Box, Entry, Listing
from wsdan.errors import UserError

SOURCE = "it is part of CUB_200_2011.tgz, see https://www.vision.caltech.edu/datasets/cub_200_2011/"


def read(root: Path, split: str) -> Listing:
    """The images of one split; root is CUB_200_2011 or the folder that holds it.

    Boxes come from bounding_boxes.txt where it is there.
    """
    folder = root / "CUB_200_2011" if (root / "CUB_200_2011").is_dir() else root
    tables = {}
    for stem in ("images", "image_class_labels", "train_test_split", "classes"):
        path = expect_file(folder / f"{stem}.txt", "cub", SOURCE)
        tables[stem] = read_table(path, "cub")
    expect_file(folder / "images", "cub", SOURCE)
    boxes = folder / "bounding_boxes.txt"
    box_table = read_table(boxes, "cub") if boxes.exists() else {}
    classes = tables["classes"]
    entries = []
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
        entries.append(Entry(folder / "images" / name, classes[label], box))
    expect_images(entries, "cub", folder / "images.txt")
    return Listing(f"--data cub: {split} of {folder}", list(classes.values()), entries)


def _box(text: str, path: Path) -> Box:
    """`x y width height` as x1, y1, x2, y2."""
    try:
        x, y, width, height = map(float, text.split())
    except ValueError:
        raise UserError(f"--data cub: {path}: expected x y width height; got {text!r}") from None
    return x, y, x + width, y + height
