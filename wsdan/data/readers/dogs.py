"""Stanford Dogs: Images/, train_list.mat, test_list.mat and, for boxes, Annotation/; and Kaggle's
images/Images/ and annotations/Annotation/ without the lists."""

import hashlib
from pathlib import Path
from xml.etree import ElementTree

from wsdan.data.formats import is_image
from wsdan.data.readers._layout import (
    first_existing,
    read_mat_file,
    require_images,
    require_path,
)
from wsdan.data.samples import Box, ImageRecord, Listing
from wsdan.errors import UserError

LAYOUT = "Images/ (or images/Images/) with folders n0...-BREED"
IMAGES = ("Images", "images/Images", "images/images")
ANNOTATIONS = ("Annotation", "annotations/Annotation", "annotations/annotation")
LISTS = {"train": "train_list.mat", "val": "test_list.mat"}
SOURCE = "see http://vision.stanford.edu/aditya86/ImageNetDogs/ for lists.tar and images.tar"
DRAWN = (
    "no train_list.mat and test_list.mat, so 100 images of each class, at most four fifths, are "
    "drawn for training; accuracies do not compare with published ones"
)
TRAINING_IMAGES = 100  # of each class, in the published split


def recognises(root: Path) -> bool:
    """Whether the folder holds the images of Stanford Dogs."""
    return any(first_existing(root, IMAGES).glob("n0*-*"))


def read(root: Path, split: str) -> Listing:
    """The images of one split; classes are their folders, sorted like the published labels.

    Without both lists, 100 images of each class, and at most four fifths, are for training, chosen
    by a hash of their names; a note of the validation split says so.

    Boxes are read for validation only: training does not use them, and has 12,000 files of them.
    """
    images, annotations = first_existing(root, IMAGES), first_existing(root, ANNOTATIONS)
    require_path(images, "dogs", SOURCE)
    lists = first_existing(root, [LISTS[split], f"lists/{LISTS[split]}"])
    published = any((lists.parent / name).exists() for name in LISTS.values())
    names = _listed(require_path(lists, "dogs", SOURCE)) if published else _drawn(images, split)
    records = []
    for name in names:
        annotation = annotations / Path(name).with_suffix("")
        box = _box(annotation) if split != "train" and annotation.is_file() else None
        records.append(ImageRecord(images / name, name.partition("/")[0], box))
    require_images(records, "dogs", lists)
    classes = sorted({record.class_name for record in records})
    # Told once: training reads both splits.
    notes = () if published or split == "train" else (f"--data dogs: {root} has {DRAWN}; {SOURCE}",)
    return Listing(f"--data dogs: {split} of {root}", classes, records, notes=notes)


def _listed(path: Path) -> list[str]:
    """The images CLASS/NAME.jpg that a published list names."""
    import numpy as np

    (files,) = read_mat_file(path, "dogs", ["file_list"])
    return [str(name) for name in np.atleast_1d(files)]


def _drawn(images: Path, split: str) -> list[str]:
    """The images CLASS/NAME.jpg of a split of our own, which depends on their names alone."""
    found = []
    for folder in sorted(path for path in images.glob("n0*-*") if path.is_dir()):
        names = [f"{folder.name}/{path.name}" for path in folder.iterdir() if is_image(path)]
        names.sort(key=lambda name: hashlib.sha256(name.encode(errors="replace")).digest())
        count = min(TRAINING_IMAGES, len(names) * 4 // 5)
        found += sorted(names[:count] if split == "train" else names[count:])
    return found


def _box(path: Path) -> Box:
    """The largest box of an annotation, which may have several dogs."""
    edges = ("xmin", "ymin", "xmax", "ymax")
    try:
        found = ElementTree.parse(path).iter("bndbox")
        boxes = [tuple(float(box.findtext(edge)) for edge in edges) for box in found]
        return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    except (ElementTree.ParseError, TypeError, ValueError):
        raise UserError(f"--data dogs: {path}: no bndbox with xmin, ymin, xmax, ymax") from None
