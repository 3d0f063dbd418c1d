"""One folder per class: root/train/CLASS/*.jpg and root/val/CLASS/*.jpg (or test/)."""

from collections import Counter
from pathlib import Path

from wsdan.data.formats import is_image, is_image_name
from wsdan.data.readers._layout import SPLIT_NAMES, files_below, identity
from wsdan.data.readers._mistakes import is_class
from wsdan.data.readers._remote import class_files
from wsdan.data.samples import ImageRecord, Listing
from wsdan.errors import UserError
from wsdan.remote.addresses import RemotePath

LAYOUT = "train/ and val/ (or test/), one folder per class in each"


def recognises(root: Path) -> bool:
    """Whether the folder holds the folder train/, of whatever content."""
    return (root / "train").is_dir()


def read(root: Path | RemotePath, split: str) -> Listing:
    """The images of one split; classes are its folders, sorted.

    Links to folders are followed; each real folder is read once. Names that begin with a dot are
    skipped, as notebooks and macOS leave such copies beside images, and __MACOSX.

    Raises UserError if the split's folder is missing, or images lie outside the class folders.
    """
    if isinstance(root, RemotePath):
        return _read_remote(root, SPLIT_NAMES[split])
    folder = _split_folder(root, SPLIT_NAMES[split])
    classes = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and is_class(path.name)
    )
    left_out = Counter(_loose_files(folder, classes))
    # A link to a folder above the class, or to another class, leads to images of other labels.
    seen = {identity(path) for path in (root, folder)}
    owners: dict[tuple[int, int], str] = {}
    for name in classes:
        other = owners.setdefault(identity(folder / name), name)
        if other != name:
            raise UserError(f"{folder}: the classes {other} and {name} are links to one folder")
    records = []
    for name in classes:
        files = sorted(files_below(folder / name, seen | owners.keys(), _refuse))
        images = [path for path in files if is_image(path)]
        left_out.update(path.suffix.lower() for path in set(files) - set(images))
        records += [ImageRecord(path, name) for path in images]
    empty = sorted(set(classes) - {record.class_name for record in records})
    return Listing(str(folder), classes, records, tuple(empty), left_out)


def _read_remote(root: RemotePath, names: tuple[str, ...]) -> Listing:
    """The same of remote images, by the suffixes of their names alone."""
    for name in names:
        folder = root / name
        files, loose = class_files(folder)
        if files or loose:
            break
    else:
        wanted = " or ".join(f"{name}/" for name in names)
        raise UserError(f"--root: {root} has no {wanted} folder with one folder a class")
    if not files and any(is_image_name(entry.path.name) for entry in loose):
        raise UserError(
            f"{folder}: images lie directly in it; move those of each class to {folder}/CLASS/"
        )
    records, left_out = [], Counter(entry.path.suffix.lower() for entry in loose)
    for name in sorted(files):
        for entry in files[name]:
            if is_image_name(entry.path.name):
                records.append(ImageRecord(RemotePath(str(entry.path), entry.stamp), name))
            else:
                left_out[entry.path.suffix.lower()] += 1
    empty = sorted(files.keys() - {record.class_name for record in records})
    return Listing(str(folder), sorted(files), records, tuple(empty), left_out)


def _refuse(error: OSError) -> None:
    """Of a folder that cannot be listed: os.walk itself takes it for an empty one."""
    raise UserError(f"{error.filename}: {error.strerror}") from None


def _loose_files(folder: Path, classes: list[str]) -> list[str]:
    """The suffixes of the files that lie in the split's folder itself.

    Raises UserError for images without any class folder.
    """
    files = [path for path in folder.iterdir() if path.is_file() and is_class(path.name)]
    if not classes and any(map(is_image, files)):
        raise UserError(
            f"{folder}: images lie directly in it; move those of each class to {folder}/CLASS/"
        )
    return [path.suffix.lower() for path in files]


def _split_folder(root: Path, names: tuple[str, ...]) -> Path:
    """The first of root/NAME that is a folder. Raises UserError if there is none."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    wanted = " or ".join(f"{name}/" for name in names)
    raise UserError(f"--root: {root} has no {wanted} folder with one folder a class")
