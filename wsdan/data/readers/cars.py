"""Stanford Cars, in both published layouts, with devkit/ and with cars_annos.mat, and Kaggle's."""

from pathlib import Path

from wsdan.data.readers._layout import (
    first_existing,
    read_mat_file,
    require_images,
    require_path,
)
from wsdan.data.samples import Box, ImageRecord, Listing
from wsdan.errors import UserError

LAYOUT = "stanford_cars/devkit/, or cars_annos.mat"
FOLDER = "stanford_cars"
# As published and as torchvision wants it; and as Kaggle packs it, each archive in a folder.
DEVKITS = ("devkit", "car_devkit/devkit", "devkit/devkit", "cars_devkit", "car_devkit")
TEST_LABELS = "cars_test_annos_withlabels.mat"
BOX_FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
# The official page, https://ai.stanford.edu/~jkrause/cars/car_dataset.html, no longer exists.
SOURCE = "see https://github.com/pytorch/vision/issues/7545 for where to get the dataset"


def recognises(root: Path) -> bool:
    """Whether the folder holds the annotations of either layout."""
    devkit = first_existing(_folder(root), DEVKITS)
    return (root / "cars_annos.mat").is_file() or (devkit / "cars_train_annos.mat").is_file()


def read(root: Path, split: str) -> Listing:
    """The images of one split.

    root contains cars_annos.mat and car_ims/. Or it is, or contains, the folder stanford_cars with
    devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat; each of these may lie in a
    folder of its own name, as on Kaggle.
    """
    if (root / "cars_annos.mat").exists() and not (_folder(root) / "cars_train").is_dir():
        return _read_single_file(root, split)
    return _read_devkit(_folder(root), split)


def _folder(root: Path) -> Path:
    return root / FOLDER if (root / FOLDER).is_dir() else root


def _read_devkit(folder: Path, split: str) -> Listing:
    part = "train" if split == "train" else "test"
    devkit = first_existing(folder, DEVKITS)
    path = devkit / "cars_train_annos.mat"
    if part == "test":  # the devkit's own file has no labels
        inside = [f"{name}/{TEST_LABELS}" for name in ("car_devkit", *DEVKITS)]
        path = first_existing(folder, [TEST_LABELS, *inside])
    images = first_existing(folder, [f"cars_{part}/cars_{part}", f"cars_{part}"])
    images = images if images.exists() else folder / f"cars_{part}"
    for needed in (path, devkit / "cars_meta.mat", images):
        require_path(needed, "cars", SOURCE)
    (annotations,) = read_mat_file(path, "cars", ["annotations"])
    _check_fields(annotations, ("class", "fname"), path)
    (names,) = read_mat_file(devkit / "cars_meta.mat", "cars", ["class_names"])
    return _listing(path, annotations, names, images, "fname", str(path))


def _read_single_file(root: Path, split: str) -> Listing:
    import numpy as np

    path = root / "cars_annos.mat"
    require_path(root / "car_ims", "cars", SOURCE)
    annotations, names = read_mat_file(path, "cars", ["annotations", "class_names"])
    _check_fields(annotations, ("class", "relative_im_path", "test"), path)
    annotations = [
        annotation
        for annotation in np.atleast_1d(annotations)
        if bool(annotation["test"]) != (split == "train")
    ]
    return _listing(path, annotations, names, root, "relative_im_path", f"{split} of {path}")


def _listing(path: Path, annotations, names, images: Path, field: str, where: str) -> Listing:
    """The records of the annotations of the file `path`; `field` names an image below `images`."""
    import numpy as np

    classes = [str(name) for name in np.atleast_1d(names)]
    records = [
        ImageRecord(
            images / str(annotation[field]),
            _class_name(classes, int(annotation["class"]), path),
            _box(annotation),
        )
        for annotation in np.atleast_1d(annotations)
    ]
    require_images(records, "cars", path)
    return Listing(f"--data cars: {where}", classes, records)


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
