"""Layouts behind remote addresses: which there are, and what their readers look up there."""

from pathlib import Path

from wsdan.data.readers._mistakes import is_class
from wsdan.data.samples import ImageRecord
from wsdan.errors import UserError
from wsdan.remote.addresses import RemotePath, is_web
from wsdan.remote.errors import NotThereError, RefusedError
from wsdan.remote.store import Entry, entries, files_below, is_file, matching, read_whole

LAYOUTS = ("csv", "folder", "webdataset")
MAX_LISTED = 10  # missing images in an error


def check_layout(data: str, root: RemotePath) -> None:
    """Raise UserError for a layout that is read from a folder of this machine only."""
    if data not in LAYOUTS:
        raise UserError(
            f"--data {data}: is read from a folder of this machine; {root} may be of "
            f"{', '.join(LAYOUTS)}"
        )


def detect_remote(root: RemotePath, known: list[str]) -> str:
    """The name of the layout below an address, by one listing. Raises UserError."""
    names = _names(root)
    shards = any(name.startswith("train") and name.endswith(".tar") for name in names)
    layouts = {"csv": "train.csv" in names, "folder": "train" in names, "webdataset": shards}
    fitting = [name for name, fits in layouts.items() if fits and name in known]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(
            f"{root} may be read as {' or '.join(fitting)}; say which with --data {fitting[0]}"
        )
    if is_web(root) and not names:
        raise UserError(
            f"{root}: no dataset found; looked for train.csv alone, as its server lists no files"
        )
    raise UserError(f"{root}: no dataset found; looked for train.csv, train/ and train*.tar")


def _names(root: RemotePath) -> set[str]:
    """Of the files and folders below an address. Few servers of the web list them: there train.csv
    comes first, and no listing is none."""
    if is_web(root) and is_file(root / "train.csv"):
        return {"train.csv"}
    try:
        return {item.path.name for item in entries(root)}
    except RefusedError as error:
        if is_web(root):
            return set()
        if isinstance(error, NotThereError):
            raise UserError(f"--root: no such folder or bucket: {root}") from None
        raise


def find(root: Path | RemotePath, pattern: str) -> list:
    """The files in a folder whose names match a pattern, sorted."""
    return matching(root, pattern) if isinstance(root, RemotePath) else sorted(root.glob(pattern))


def there(path: Path | RemotePath) -> bool:
    """Whether there is such a file."""
    return is_file(path) if isinstance(path, RemotePath) else path.is_file()


def exists(path: Path | RemotePath) -> bool:
    """The same of this machine's FIFOs and folders too, which are then refused."""
    return is_file(path) if isinstance(path, RemotePath) else path.exists()


def read_text(path: Path | RemotePath) -> str:
    """The text of a file in UTF-8. Raises OSError, UnicodeDecodeError or RemoteError."""
    if isinstance(path, RemotePath):
        return read_whole(path).decode("utf-8-sig")
    return path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark


def class_files(folder: RemotePath) -> tuple[dict[str, list[Entry]], list[Entry]]:
    """The files below a split's folder by class, the first part of their names, sorted; and those
    that lie in it directly. Hidden names are skipped, and __MACOSX."""
    classes: dict[str, list[Entry]] = {}
    loose = []
    for entry in files_below(folder):
        first, *others = str(entry.path).removeprefix(f"{folder}/").split("/")
        if all(map(is_class, (first, *others))):
            classes.setdefault(first, []).append(entry) if others else loose.append(entry)
    return classes, loose


def with_stamps(records: list[ImageRecord], data: str, where: object) -> list[ImageRecord]:
    """The records, of remote images, with the stamps of one listing of each folder.

    Raises UserError for images that a listing does not have. The web is not asked: an image that
    is missing there is an error when it is read.
    """
    folders: dict[RemotePath, dict[RemotePath, str]] = {}
    for folder in dict.fromkeys(record.source.parent for record in records):
        folders[folder] = {} if is_web(folder) else _stamps(folder)
    missing, found = [], []
    for record in records:
        stamp = folders[record.source.parent].get(record.source)
        if stamp is None and not is_web(record.source):
            missing.append(str(record.source))
        found.append(record._replace(source=RemotePath(str(record.source), stamp or "")))
    if missing:
        more = ", ..." if len(missing) > MAX_LISTED else ""
        raise UserError(
            f"--data {data}: {len(missing)} of {len(records)} images that {where} names are "
            f"missing: {', '.join(missing[:MAX_LISTED])}{more}"
        )
    return found


def _stamps(folder: RemotePath) -> dict[RemotePath, str]:
    try:
        return {item.path: item.stamp for item in entries(folder)}
    except NotThereError:
        return {}
