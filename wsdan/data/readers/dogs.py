"""Stanford Dogs: train_list.mat and test_list.mat, Images/ and, for boxes, Annotation/."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from wsdan.data.readers._layout import expect_file, expect_images, read_matlab
from wsdan.data.samples import Box, Entry, Listing
from wsdan.errors import UserError

SOURCE = "see http://vision.stanford.edu/aditya86/ImageNetDogs/ for lists.tar and images.tar"


def read(root: Path, split: str) -> Listing:
    """The images of one split; classes are their folders, sorted as the published labels are.

    Boxes are read to validate only, where training has no use for its 12,000 files of them.
    """
    path = root / ("train_list.mat" if split == "train" else "test_list.mat")
    for needed in (path, root / "Images"):
        expect_file(needed, "dogs", SOURCE)
    (files,) = read_matlab(path, "dogs", ["file_list"])
    entries = []
    for name in map(str, np.atleast_1d(files)):
        annotation = root / "Annotation" / name.removesuffix(".jpg")
        box = _box(annotation) if split != "train" and annotation.exists() else None
        entries.append(Entry(root / "Images" / name, name.partition("/")[0], box))
    expect_images(entries, "dogs", path)
    return Listing(f"--data dogs: {path}", sorted({entry.name for entry in entries}), entries)


def _box(path: Path) -> Box:
    """The largest box of an annotation, which may show several dogs."""
    edges = ("xmin", "ymin", "xmax", "ymax")
    try:
        found = ElementTree.parse(path).iter("bndbox")
        boxes = [tuple(float(box.findtext(edge)) for edge in edges) for box in found]
        return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    except (ElementTree.ParseError, TypeError, ValueError):
        raise UserError(f"--data dogs: {path}: no bndbox with xmin, ymin, xmax, ymax") from None
