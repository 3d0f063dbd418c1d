"""The images that a command is given: files, folders, globs, csv files, shards, a list on stdin.

They are listed one after the other, as they are needed. Nothing here imports torch: what is not
there is told before it is loaded.
"""

import csv
import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

from wsdan.data.formats import is_image, left_out_text
from wsdan.data.readers._layout import files_below
from wsdan.data.readers._tar import DamageError, damage_line, members_one_by_one
from wsdan.data.readers.webdataset import COMPRESSED, sample_images
from wsdan.data.samples import TarMember
from wsdan.errors import UserError
from wsdan.validation import IS_FOLDER, check_text, file_fault

STDIN = "-"
NO_IMAGE = "holds no image"
CHUNK = 1 << 16  # bytes of standard input that are read at once
LONGEST_NAME = 1 << 16  # bytes; systems allow 4,096


class Unreadable(NamedTuple):
    """An image, or a source of images, that cannot be read, and why."""

    name: str
    reason: str


Source: TypeAlias = str | TarMember | Unreadable


class Listing:
    """The images of some sources, in their order: iterate over it, once.

    Sources are paths of images, folders, csv files with a column "path" and WebDataset shards
    (.tar); patterns; and "-", which is a list of paths on standard input, one a line or each ended
    by a NUL. Yields paths as strings, members of shards, and an Unreadable for what cannot be
    listed, in its place.

    Args:
        sources: not empty, as `check_sources` takes them. skip: a folder that is not entered.

    Attributes:
        notes: warnings, of files in folders that are left out.
    """

    def __init__(self, sources: list[str], skip: tuple[int, int] | None = None):
        self.notes: list[str] = []
        self._sources = sources
        self._seen = set() if skip is None else {skip}

    def __iter__(self) -> Iterator[Source]:
        for source in self._sources:
            yield from self._stdin() if source == STDIN else self._argument(source)

    def _argument(self, source: str) -> Iterator[Source]:
        """A source of the command line."""
        if not is_pattern(source):
            yield from self._path(source)
            return
        for path in matches(source):
            yield from self._path(path)

    def _path(self, path: str) -> Iterator[Source]:
        name = path.lower()
        if os.path.isdir(path):
            yield from self._folder(path)
        elif name.endswith(".csv"):
            yield from _table(path)
        elif name.endswith(".tar"):
            yield from _shard(path)
        elif name.endswith(COMPRESSED):
            yield Unreadable(path, "shards must be uncompressed .tar files")
        else:
            yield path

    def _folder(self, path: str) -> Iterator[Source]:
        left_out, faults, empty = Counter(), [], True
        for file in files_below(Path(path), self._seen, faults.append):
            yield from _taken(faults)
            if is_image(file):
                empty = False
                yield str(file)
            else:
                left_out[file.suffix.lower()] += 1
        if empty and not faults:
            hint = f"; its shards are {Path(path) / '*.tar'}" if ".tar" in left_out else ""
            others = f" ({left_out_text(left_out)})" if left_out else ""
            yield Unreadable(path, NO_IMAGE + others + hint)
        elif left_out:
            self.notes.append(f"{path}: {left_out_text(left_out)}")
        yield from _taken(faults)

    def _stdin(self) -> Iterator[Source]:
        empty = True
        for name in _names(sys.stdin.buffer):
            empty = False
            yield from self._path(name)
        if empty:
            yield Unreadable(STDIN, "standard input names no file")


def check_sources(sources: list[str]) -> None:
    """Raise UserError for a source that is not there, or if no source but "-" holds an image."""
    if sources.count(STDIN) > 1:
        raise UserError("standard input, -, can be read only once")
    first: list[Source | None] = []
    for source in sources:
        if source == STDIN:
            first.append(None)
            continue
        check_text("SOURCE", source)
        if not is_pattern(source):
            fault = file_fault(source)
            if fault not in (None, IS_FOLDER):
                raise UserError(f"{source}: not a readable image: {fault}")
        elif next(matches(source), None) is None:
            raise UserError(f"{source}: no file has such a name")
        first.append(next(iter(Listing([source])), None))
    faults = [entry for entry in first if isinstance(entry, Unreadable)]
    if len(faults) == len(sources):
        raise UserError(f"{faults[0].name}: {faults[0].reason}")


def is_pattern(source: str) -> bool:
    """Whether a source is a pattern, and not the name of something that is there."""
    return glob.has_magic(source) and not os.path.lexists(source)


def matches(pattern: str) -> Iterator[str]:
    """What a pattern stands for, sorted as a shell does. `**` is any number of folders, and a
    pattern with it stands for files only."""
    parts = pattern.split("/")
    if "**" not in parts:
        yield from sorted(glob.iglob(pattern))
        return
    base = "/".join(parts[: parts.index("**")])
    wanted = [part for part in parts[parts.index("**") :] if part]
    top = base or ("/" if pattern.startswith("/") else ".")
    for folder in sorted(glob.iglob(top)) if glob.has_magic(top) else [top]:
        for path in files_below(Path(folder), set(), lambda _: None):
            if _match(path.relative_to(folder).parts, wanted):
                yield str(path)


def _match(names: tuple[str, ...], wanted: list[str]) -> bool:
    """Whether the parts of a path match those of a pattern."""
    if not wanted:
        return not names
    if wanted == ["**"]:
        return True
    if wanted[0] == "**":
        return any(_match(names[start:], wanted[1:]) for start in range(len(names)))
    return bool(names) and fnmatchcase(names[0], wanted[0]) and _match(names[1:], wanted[1:])


def _taken(faults: list[OSError]) -> Iterator[Unreadable]:
    """The folders that could not be listed; empties the list."""
    while faults:
        error = faults.pop(0)
        yield Unreadable(str(error.filename), f"cannot be listed: {error.strerror}")


def _table(path: str) -> Iterator[str | Unreadable]:
    """The column `path` of a csv file; relative paths are below the file's folder."""
    fault = file_fault(path)
    if fault is not None:
        yield Unreadable(path, fault)
        return
    number = 0
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            header = [name.strip() for name in rows.fieldnames or []]
            rows.fieldnames = header
            for number, row in enumerate(rows if "path" in header else (), 1):
                name = (row["path"] or "").strip()
                missing = Unreadable(f"{path}, row {number}", "its path is empty")
                yield os.path.join(os.path.dirname(path), name) if name else missing
    except (OSError, csv.Error) as error:
        yield Unreadable(
            f"{path}, row {number + 1}", getattr(error, "strerror", None) or str(error)
        )
        return
    if "path" not in header:
        names = ",".join(header) or "nothing"
        yield Unreadable(path, f"its header must have a column path; got {names}")
    elif number == 0:
        yield Unreadable(path, "holds no row")


def _shard(path: str) -> Iterator[TarMember | Unreadable]:
    fault = file_fault(path)
    if fault is not None:
        yield Unreadable(path, fault)
        return
    damage: list[DamageError] = []
    empty = True
    try:
        with open(path, "rb") as file:
            for item in sample_images(members_one_by_one(file, damage)):
                empty = False
                yield TarMember(Path(path), item.name, item.offset_data, item.size)
    except OSError as error:
        yield Unreadable(path, f"cannot be read: {error.strerror}")
        return
    if damage:
        yield Unreadable(path, damage_line(Path(path), damage).removeprefix(f"{Path(path)}: "))
    elif empty:
        yield Unreadable(path, NO_IMAGE)


def _names(stream: BinaryIO) -> Iterator[str]:
    """The names of a list, as they come. The first line break or NUL tells which of both ends a
    name; the end of a line may be CR LF. Empty lines are skipped.

    Raises UserError if the list cannot be read, or is none.
    """
    rest = separator = b""
    try:
        chunk = stream.read1(CHUNK).removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        while chunk:
            rest += chunk
            ends = [rest.find(end) for end in (b"\n", b"\0") if end in rest]
            separator = separator or (rest[min(ends) : min(ends) + 1] if ends else b"")
            *names, rest = rest.split(separator) if separator else [rest]
            yield from _decoded(names, separator)
            if len(rest) > LONGEST_NAME:
                raise UserError("standard input is no list of names: one has over 64 KiB")
            chunk = stream.read1(CHUNK)
    except OSError as error:
        raise UserError(f"standard input cannot be read: {error.strerror or error}") from None
    yield from _decoded([rest], separator)


def _decoded(names: list[bytes], separator: bytes) -> Iterator[str]:
    for name in names:
        name = name if separator == b"\0" else name.removesuffix(b"\r")
        if name.strip():
            yield os.fsdecode(name)
