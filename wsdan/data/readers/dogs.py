"""Stanford Dogs: train_list.mat, test_list.mat, Images/ and, for boxes, Annotation/."""

from pathlib import Path
from xml.etree import ElementTree

from wsdan.data.readers._layout import read_mat_file, require_images, require_path
from wsdan.data.samples import Box, ImageRecord, Listing
from wsdan.errors import UserError

LAYOUT = "train_list.mat and Images/"
SOURCE = "see http://vision.stanford.edu/aditya86/ImageNetDogs/ for lists.tar and images.tar"


def recognises(root: Path) -> bool:
    """Whether the folder holds the images or the lists of Stanford Dogs."""
    return (root / "Images").is_dir() and (root / "train_list.mat").is_file()


def read(root: Path, split: str) -> Listing:
    """The images of one split; classes are their folders, sorted like the published labels.

    Boxes are read for validation only: training does not use them, and has 12,000 files of them.
    """
    import numpy as np

    path = root / ("train_list.mat" if split == "train" else "test_list.mat")
    for needed in (path, root / "Images"):
        require_path(needed, "dogs", SOURCE)
    (files,) = read_mat_file(path, "dogs", ["file_list"])
    records = []
    for name in map(str, np.atleast_1d(files)):
        annotation = root / "Annotation" / name.removesuffix(".jpg")
        box = _box(annotation) if split != "train" and annotation.is_file() else None
        records.append(ImageRecord(root / "Images" / name, name.partition("/")[0], box))
    require_images(records, "dogs", path)
    classes = sorted({record.class_name for record in records})
    return Listing(f"--data dogs: {path}", classes, records)


def _box(path: Path) -> Box:
    """The largest box of an annotation, which may have several dogs."""
    edges = ("xmin", "ymin", "xmax", "ymax")
    try:
        found = ElementTree.parse(path).iter("bndbox")
        boxes = [tuple(float(box.findtext(edge)) for edge in edges) for box in found]
        return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    except (ElementTree.ParseError, TypeError, ValueError):
        raise UserError(f"--data dogs: {path}: no bndbox with xmin, ymin, xmax, ymax") from None
