"""A tree of images, root/train/CLASS/*.jpg and root/val/CLASS/*.jpg (or test/)."""

import os
from pathlib import Path

from wsdan.data.images import EXTENSIONS
from wsdan.data.samples import Entry, Listing
from wsdan.errors import UserError


def read(root: Path, split: str) -> Listing:
    """The images of one split ("train" or "val"); classes are its folders, sorted.

    Links to folders are followed. What begins with a dot is left out: such are the copies that
    notebooks and macOS leave beside images.

    Raises UserError where the split's folder is missing or a class folder is empty.
    """
    folder = split_folder(root, ("train",) if split == "train" else ("val", "test"))
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and _shown(path.name))
    entries = []
    for name in names:
        files = _images_below(folder / name)
        if not files:
            raise UserError(f"{folder / name}: the class folder holds no image")
        entries += [Entry(path, name) for path in files]
    return Listing(str(folder), names, entries)


def _images_below(folder: Path) -> list[Path]:
    """The images at any depth, sorted."""
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = filter(_shown, folders)
        found += [Path(where, name) for name in files if _shown(name)]
    return sorted(path for path in found if path.suffix.lower() in EXTENSIONS)


def _shown(name: str) -> bool:
    return not name.startswith(".")


def split_folder(root: Path, names: tuple[str, ...]) -> Path:
    """The first of root/NAME that is a folder. Raises UserError where there is none."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    wanted = " or ".join(f"{name}/" for name in names)
    raise UserError(f"--root: {root} has no {wanted} folder with one folder a class")
