"""Folders that are nearly a dataset: what to do about them, in words."""

import mimetypes
from pathlib import Path

SPLITS = ("train", "val", "test")
ARCHIVE_NOTES = "__MACOSX"  # the folder that macOS adds to its archives


def mend(root: Path) -> str:
    """A sentence, with a space behind it, for a folder of no layout; "" if nothing is known.

    Looks at the names in `root` and in its folders only.
    """
    if root.name in SPLITS and (root.parent / "train").is_dir():
        return f"Did you mean {root.parent}? "
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and is_class(path.name)]
    if any(looks_like_image(path) for path in root.iterdir()):
        return (
            f"Images lie directly in it; move them to {root}/train/CLASS/ and {root}/val/CLASS/. "
        )
    if not folders:
        return "It holds no folder. "
    if any(looks_like_image(path) for folder in folders for path in folder.iterdir()):
        return (
            f"Its folders hold images, as classes do; put them into {root}/train/CLASS/, and "
            f"others of the same classes into {root}/val/CLASS/. "
        )
    inner = [path for path in folders if (path / "train").is_dir()]
    return f"Did you mean {inner[0]}? " if inner else ""


def is_class(name: str) -> bool:
    """Whether a folder of this name may be a class: not hidden, and not from an archiver."""
    return not name.startswith(".") and name != ARCHIVE_NOTES


def looks_like_image(path: Path) -> bool:
    """Whether the suffix is that of an image, by the standard library's table."""
    kind = mimetypes.guess_type(path.name)[0]
    return kind is not None and kind.startswith("image/") and path.is_file()
