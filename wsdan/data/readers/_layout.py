"""Helpers for readers: finding and parsing the files of a layout, with one-line errors.

The argument `data` is the reader's name, which its errors begin with: "--data cub: ...".
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from wsdan.data.readers._mistakes import is_class
from wsdan.data.readers._remote import read_text
from wsdan.data.samples import ImageRecord
from wsdan.errors import UserError
from wsdan.remote.addresses import RemotePath
from wsdan.validation import file_fault

# What a split is called in file and folder names: the first that exists is read.
SPLIT_NAMES = {"train": ("train",), "val": ("val", "test")}
MAX_LISTED = 10  # missing images listed in the error; a file lists all of them


def require_path(path: Path, data: str, source: str) -> Path:
    """Return `path`, of a file or folder that must exist.

    Raises UserError if it is missing; `source` says where to get it.
    """
    if not path.exists():
        raise UserError(f"--data {data}: {path} is missing; {source}")
    if not path.is_dir():
        _check_regular(path, data)
    return path


def first_existing(folder: Path, names: Sequence[str]) -> Path:
    """The first of folder/NAME that exists; the first of all if none does."""
    return next((folder / name for name in names if (folder / name).exists()), folder / names[0])


def containing_folder(root: Path, name: str) -> Path:
    """The folder that contains the folder `name`: the parent of `root` if root is called so, else
    root itself. So --root may be either of them."""
    for path in (root.absolute(), root.resolve()):  # a link, or its target, may have the name
        if path.name == name:
            return path.parent
    return root


def files_below(
    folder: Path, seen: set[tuple[int, int]], refuse: Callable[[OSError], object]
) -> Iterator[Path]:
    """The files at any depth, listed one folder after the other: its files, by name, then those of
    its folders.

    Links to folders are followed; folders in `seen`, which are by `identity`, are not entered, and
    none is entered twice. Hidden names are skipped, and __MACOSX. A folder that cannot be listed
    goes to `refuse`.
    """
    seen = set(seen)
    with contextlib.suppress(OSError):  # which os.walk finds itself
        seen.add(identity(folder))
    for where, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        entered = []
        for name in filter(is_class, sorted(folders)):
            try:
                own = identity(Path(where, name))
            except OSError as error:  # it is gone, or a link into a loop
                refuse(error)
                continue
            if own not in seen:
                seen.add(own)
                entered.append(name)
        folders[:] = entered
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(where, name)


def identity(path: Path) -> tuple[int, int]:
    """What tells a real folder from another, whatever links lead to it."""
    state = path.stat()
    return state.st_dev, state.st_ino


def require_images(records: list[ImageRecord], data: str, where: Path) -> None:
    """Raise UserError if any of the image files that `where` lists is missing on this machine."""
    missing = [str(record.source) for record in records if not os.path.isfile(record.source)]
    if not missing:
        return
    line = f"--data {data}: {len(missing)} of {len(records)} images that {where} names are missing"
    line += f": {', '.join(missing[:MAX_LISTED])}"
    if len(missing) > MAX_LISTED:
        with tempfile.NamedTemporaryFile(
            "w", prefix="wsdan-missing-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write("\n".join(missing) + "\n")
        line += f", ...; {file.name} lists all"
    raise UserError(line)


def read_key_values(path: Path, data: str) -> dict[str, str]:
    """The lines `KEY VALUE` of a text file. Raises UserError for a line without a value."""
    table = {}
    for number, line in enumerate(read_lines(path, data), start=1):
        key, space, value = line.strip().partition(" ")
        if not space:
            raise UserError(f"--data {data}: {path}:{number}: expected `key value`; got {line!r}")
        table[key] = value.strip()
    return table


def read_lines(path: Path | RemotePath, data: str) -> list[str]:
    """The lines of a text file that are not empty. Raises UserError if it is not UTF-8 text."""
    if isinstance(path, Path):
        _check_regular(path, data)
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--data {data}: cannot read {path}: {error}") from None
    return [line for line in text.splitlines() if line.strip()]


def _check_regular(path: Path, data: str) -> None:
    fault = file_fault(path)
    if fault is not None:
        raise UserError(f"--data {data}: {path}: {fault}")


def read_mat_file(path: Path, data: str, names: Sequence[str]) -> list:
    """The variables `names` of a MATLAB file, as scipy reads them with squeeze_me=True.

    Raises UserError if a variable is missing, or the file is of another format.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    _check_regular(path, data)
    try:
        content = loadmat(path, squeeze_me=True)
        return [content[name] for name in names]
    except (MatReadError, NotImplementedError, ValueError, OSError, TypeError) as error:
        raise UserError(f"--data {data}: {path} is no MATLAB file: {error}") from None
    except KeyError as error:
        raise UserError(f"--data {data}: {path} holds no variable {error}") from None
