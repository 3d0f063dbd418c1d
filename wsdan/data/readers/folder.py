"""One folder per class: root/train/CLASS/*.jpg and root/val/CLASS/*.jpg (or test/)."""

import os
from pathlib import Path

from wsdan.data.readers._layout import SPLIT_NAMES
from wsdan.data.samples import ImageRecord, Listing
from wsdan.errors import UserError

LAYOUT = "train/ and val/ (or test/), one folder per class in each"


def recognises(root: Path) -> bool:
    """Whether the folder holds the folder train/, of whatever content."""
    return (root / "train").is_dir()


def read(root: Path, split: str) -> Listing:
    """The images of one split; classes are its folders, sorted.

    Links to folders are followed. Names that begin with a dot are skipped: notebooks and macOS
    leave such copies beside images.

    Raises UserError if the split's folder is missing or a class folder is empty.
    """
    folder = _split_folder(root, SPLIT_NAMES[split])
    classes = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and _visible(path.name)
    )
    records = []
    for name in classes:
        files = _images_below(folder / name)
        if not files:
            raise UserError(f"{folder / name}: the class folder holds no image")
        records += [ImageRecord(path, name) for path in files]
    return Listing(str(folder), classes, records)


def _images_below(folder: Path) -> list[Path]:
    """The image files at any depth, sorted."""
    from wsdan.data.images import EXTENSIONS

    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = filter(_visible, folders)
        found += [Path(where, name) for name in files if _visible(name)]
    return sorted(path for path in found if path.suffix.lower() in EXTENSIONS)


def _visible(name: str) -> bool:
    return not name.startswith(".")


def _split_folder(root: Path, names: tuple[str, ...]) -> Path:
    """The first of root/NAME that is a folder. Raises UserError if there is none."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    wanted = " or ".join(f"{name}/" for name in names)
    raise UserError(f"--root: {root} has no {wanted} folder with one folder a class")
