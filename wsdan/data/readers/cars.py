"""Stanford Cars, in both published layouts: with devkit/, and with cars_annos.mat."""

from pathlib import Path

from wsdan.data.readers._layout import (
    containing_folder,
    read_mat_file,
    require_images,
    require_path,
)
from wsdan.data.samples import Box, ImageRecord, Listing
from wsdan.errors import UserError

LAYOUT = "stanford_cars/devkit/, or cars_annos.mat"
FOLDER = "stanford_cars"
BOX_FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
# The official page, https://ai.stanford.edu/~jkrause/cars/car_dataset.html, no longer exists.
SOURCE = "see https://github.com/pytorch/vision/issues/7545 for where to get the dataset"


def recognises(root: Path) -> bool:
    """Whether the folder holds the annotations of either layout."""
    folder = containing_folder(root, FOLDER) / FOLDER
    return (root / "cars_annos.mat").is_file() or (folder / "devkit").is_dir()


def read(root: Path, split: str) -> Listing:
    """The images of one split.

    root contains cars_annos.mat and car_ims/. Or it is, or contains, the folder stanford_cars with
    devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat.
    """
    if (root / "cars_annos.mat").exists():
        return _read_single_file(root, split)
    return _read_devkit(containing_folder(root, FOLDER), split)


def _read_devkit(root: Path, split: str) -> Listing:
    folder, part = root / FOLDER, "train" if split == "train" else "test"
    inside = "devkit/cars_train_annos.mat" if part == "train" else "cars_test_annos_withlabels.mat"
    for name in (inside, "devkit/cars_meta.mat", f"cars_{part}"):
        require_path(folder / name, "cars", SOURCE)
    (annotations,) = read_mat_file(folder / inside, "cars", ["annotations"])
    _check_fields(annotations, ("class", "fname"), folder / inside)
    read_mat_file(folder / "devkit/cars_meta.mat", "cars", ["class_names"])  # raises if missing
    from torchvision.datasets import StanfordCars

    dataset = StanfordCars(root, part, loader=Path)  # items are (path, label)
    records = []
    for index, annotation in enumerate(annotations):  # torchvision keeps the order
        path, label = dataset[index]
        name = _class_name(dataset.classes, int(label) + 1, folder / inside)
        records.append(ImageRecord(path, name, _box(annotation)))
    require_images(records, "cars", folder / inside)
    return Listing(f"--data cars: {folder / inside}", dataset.classes, records)


def _read_single_file(root: Path, split: str) -> Listing:
    import numpy as np

    path = root / "cars_annos.mat"
    require_path(root / "car_ims", "cars", SOURCE)
    annotations, names = read_mat_file(path, "cars", ["annotations", "class_names"])
    _check_fields(annotations, ("class", "relative_im_path", "test"), path)
    classes = [str(name) for name in np.atleast_1d(names)]
    records = [
        ImageRecord(
            root / str(annotation["relative_im_path"]),
            _class_name(classes, int(annotation["class"]), path),
            _box(annotation),
        )
        for annotation in np.atleast_1d(annotations)
        if bool(annotation["test"]) != (split == "train")
    ]
    require_images(records, "cars", path)
    return Listing(f"--data cars: {split} of {path}", classes, records)


def _check_fields(annotations, fields: tuple[str, ...], path: Path) -> None:
    """Raise UserError for a missing field: the devkit's own test annotations have no class."""
    import numpy as np

    found = np.asarray(annotations).dtype.names or ()
    lacking = [name for name in (*fields, *BOX_FIELDS) if name not in found]
    if lacking:
        raise UserError(f"--data cars: {path}: its annotations have no {', '.join(lacking)}")


def _class_name(classes: list[str], number: int, path: Path) -> str:
    """The name of a class by its 1-based number."""
    if not 1 <= number <= len(classes):
        raise UserError(f"--data cars: {path}: class {number} is not in 1..{len(classes)}")
    return classes[number - 1]


def _box(annotation) -> Box:
    """The annotation's box, which is 1-based and inclusive."""
    x1, y1, x2, y2 = (float(annotation[name]) for name in BOX_FIELDS)
    return x1 - 1, y1 - 1, x2, y2
