"""What readers of a data set's layout share: files that must be there, one line where they lack."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from wsdan.data.samples import Entry
from wsdan.errors import UserError

SHOWN = 10  # missing images named in the line; a file lists all


def expect_file(path: Path, data: str, source: str) -> Path:
    """The path, of a file or folder. Raises UserError where it is missing: see `source` for it."""
    if not path.exists():
        raise UserError(f"--data {data}: {path} is missing; {source}")
    return path


def folder_around(root: Path, name: str) -> Path:
    """The folder that holds the folder `name`: root, or the one around it where root is `name`."""
    for path in (root.absolute(), root.resolve()):  # a link may have the name, or what it leads to
        if path.name == name:
            return path.parent
    return root


def expect_images(entries: list[Entry], data: str, where: Path) -> None:
    """Raise UserError where image files that `where` names are missing."""
    missing = [str(entry.source) for entry in entries if not os.path.isfile(entry.source)]
    if not missing:
        return
    line = f"--data {data}: {len(missing)} of {len(entries)} images that {where} names are missing"
    line += f": {', '.join(missing[:SHOWN])}"
    if len(missing) > SHOWN:
        with tempfile.NamedTemporaryFile(
            "w", prefix="wsdan-missing-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write("\n".join(missing) + "\n")
        line += f", ...; {file.name} lists all"
    raise UserError(line)


def read_table(path: Path, data: str) -> dict[str, str]:
    """The lines `KEY REST` of a text file. Raises UserError for a line that is none."""
    table = {}
    for number, line in enumerate(read_lines(path, data), start=1):
        key, space, rest = line.strip().partition(" ")
        if not space:
            raise UserError(f"--data {data}: {path}:{number}: expected `key value`; got {line!r}")
        table[key] = rest.strip()
    return table


def read_lines(path: Path, data: str) -> list[str]:
    """The lines of a text file, empty ones left out. Raises UserError where it is no text."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--data {data}: cannot read {path}: {error}") from None
    return [line for line in text.splitlines() if line.strip()]


def read_matlab(path: Path, data: str, names: Sequence[str]) -> list:
    """The variables `names` of a .mat file, as scipy gives them with axes of length one left out.

    Raises UserError where scipy, the file's format or a variable is missing.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise UserError(f"--data {data} needs scipy: pip install 'wsdan[data]'") from None
    try:
        content = loadmat(path, squeeze_me=True)
        return [content[name] for name in names]
    except (MatReadError, NotImplementedError, ValueError, OSError, TypeError) as error:
        raise UserError(f"--data {data}: {path} is no MATLAB file: {error}") from None
    except KeyError as error:
        raise UserError(f"--data {data}: {path} holds no variable {error}") from None
