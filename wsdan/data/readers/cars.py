"""Stanford Cars, in either of its published layouts: the devkit's, and cars_annos.mat's."""

from pathlib import Path

import numpy as np
from torchvision.datasets import StanfordCars

from wsdan.data.readers._layout import expect_file, expect_images, folder_around, read_matlab
from wsdan.data.samples import Box, Entry, Listing
from wsdan.errors import UserError

FOLDER = "stanford_cars"
BOX_FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
# The official page, https://ai.stanford.edu/~jkrause/cars/car_dataset.html, has gone.
SOURCE = "see https://github.com/pytorch/vision/issues/7545 for where the data set can be had"


def read(root: Path, split: str) -> Listing:
    """The images of one split.

    root holds cars_annos.mat and car_ims/; or it is, or holds, the folder stanford_cars with
    devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat.
    """
    if (root / "cars_annos.mat").exists():
        return _list_one_file(root, split)
    return _list_devkit(folder_around(root, FOLDER), split)


def _list_devkit(root: Path, split: str) -> Listing:
    folder, part = root / FOLDER, "train" if split == "train" else "test"
    inside = "devkit/cars_train_annos.mat" if part == "train" else "cars_test_annos_withlabels.mat"
    for name in (inside, "devkit/cars_meta.mat", f"cars_{part}"):
        expect_file(folder / name, "cars", SOURCE)
    (annotations,) = read_matlab(folder / inside, "cars", ["annotations"])
    _check_fields(annotations, ("class", "fname"), folder / inside)
    read_matlab(folder / "devkit/cars_meta.mat", "cars", ["class_names"])  # for a line if it lacks
    images = StanfordCars(root, part, loader=Path)  # items are (path, label)
    entries = []
    for index, annotation in enumerate(annotations):  # torchvision keeps their order
        path, label = images[index]
        name = _class_name(images.classes, int(label) + 1, folder / inside)
        entries.append(Entry(path, name, _box(annotation)))
    expect_images(entries, "cars", folder / inside)
    return Listing(f"--data cars: {folder / inside}", images.classes, entries)


def _list_one_file(root: Path, split: str) -> Listing:
    path = root / "cars_annos.mat"
    expect_file(root / "car_ims", "cars", SOURCE)
    annotations, names = read_matlab(path, "cars", ["annotations", "class_names"])
    _check_fields(annotations, ("class", "relative_im_path", "test"), path)
    classes = [str(name) for name in np.atleast_1d(names)]
    entries = [
        Entry(
            root / str(annotation["relative_im_path"]),
            _class_name(classes, int(annotation["class"]), path),
            _box(annotation),
        )
        for annotation in np.atleast_1d(annotations)
        if bool(annotation["test"]) != (split == "train")
    ]
    expect_images(entries, "cars", path)
    return Listing(f"--data cars: {split} of {path}", classes, entries)


def _check_fields(annotations: np.ndarray, fields: tuple[str, ...], path: Path) -> None:
    """Raise UserError where a field is missing, as labels are in the devkit's own list of tests."""
    found = np.asarray(annotations).dtype.names or ()
    lacking = [name for name in (*fields, *BOX_FIELDS) if name not in found]
    if lacking:
        raise UserError(f"--data cars: {path}: its annotations have no {', '.join(lacking)}")


def _class_name(classes: list[str], number: int, path: Path) -> str:
    """The name of a class numbered from 1."""
    if not 1 <= number <= len(classes):
        raise UserError(f"--data cars: {path}: class {number} is not in 1..{len(classes)}")
    return classes[number - 1]


def _box(annotation) -> Box:
    """The annotation's box, counted from 1 and inclusive, as x1, y1, x2, y2."""
    x1, y1, x2, y2 = (float(annotation[name]) for name in BOX_FIELDS)
    return x1 - 1, y1 - 1, x2, y2
