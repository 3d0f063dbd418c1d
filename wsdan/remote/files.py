"""Reading objects by ranges: parts of one from many places, and one as a file."""

import contextlib
import hashlib
import io
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from wsdan.files import cache_folder, one_at_a_time, written_whole
from wsdan.output import warn
from wsdan.remote.addresses import RemotePath
from wsdan.remote.errors import RemoteError
from wsdan.remote.store import info, read_range, read_whole

LEAST, MOST = 1 << 18, 1 << 23  # bytes that are read ahead at first, and at most
GAP = 1 << 16  # bytes between two reads that follow one another: headers and labels of a shard
OBJECTS = 8  # of which a process keeps what it has read ahead
LARGEST_INDEX = 1 << 28  # bytes of the headers and labels of a shard that are kept on the disk
_PIECE = struct.Struct("<QQ")  # offset and length of a piece


class Window:
    """Reads ranges of one object; where they follow one another, more is read at once.

    Args:
        size: of the object, if known. eager: read ahead at the first read already.
    """

    def __init__(self, path: RemotePath, size: int | None, eager: bool = False):
        self.path, self.size = path, size
        self.start, self.data = 0, b""
        self.next = 0 if eager else -GAP - 1  # where the last read ended
        self.ahead = LEAST

    def read(self, start: int, end: int) -> bytes:
        """The bytes start..end. Raises RemoteError."""
        follows = 0 <= start - self.next <= max(GAP, len(self.data))
        self.next = end
        if self.start <= start and end <= self.start + len(self.data):
            return self.data[start - self.start : end - self.start]
        wanted = end
        if follows:
            wanted, self.ahead = max(end, start + self.ahead), min(2 * self.ahead, MOST)
        else:
            self.ahead = LEAST
        wanted = wanted if self.size is None else max(end, min(wanted, self.size))
        data = read_range(self.path, start, wanted if self.size is not None else end)
        self.start, self.data = (start, data) if follows else (0, b"")
        return data[: end - start]


_windows: OrderedDict[RemotePath, Window] = OrderedDict()  # of this process: forked ones copy it


def read_part(path: RemotePath, offset: int, size: int) -> bytes:
    """`size` bytes of an object; those of images in the order of their shard come in few requests.

    Raises RemoteError.
    """
    window = _windows.pop(path, None) or Window(path, _listed_size(path))
    _windows[path] = window
    while len(_windows) > OBJECTS:
        _windows.popitem(last=False)
    return window.read(offset, offset + size)


def read_object(path: RemotePath) -> bytes:
    """A small object: in one request where its size was listed. Raises RemoteError."""
    size = _listed_size(path)
    return read_whole(path) if size is None else read_range(path, 0, size)


def _listed_size(path: RemotePath) -> int | None:
    text = path.stamp.partition(" ")[0]
    return int(text) if text.isdecimal() else None


class RemoteFile(io.RawIOBase):
    """An object as a file to read, which records what it gave in `pieces`, by offset."""

    def __init__(self, path: RemotePath, size: int, pieces: dict[int, bytes]):
        self.pieces, self._size, self._at = pieces, size, 0
        self._window = Window(path, size, eager=True)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """As of a file. Raises RemoteError."""
        left = max(self._size - self._at, 0)
        size = left if size is None or size < 0 else min(size, left)
        kept = self.pieces.get(self._at)
        if kept is None or len(kept) < size:
            kept = self.pieces[self._at] = self._window.read(self._at, self._at + size)
        self._at += size
        return kept[:size]


@contextlib.contextmanager
def open_index(path: RemotePath) -> Iterator[RemoteFile]:
    """A shard, to read its headers and labels from.

    What was read is kept in `cache_folder`, by address, size and ETag; the next time it comes from
    there, without a request but that for the object's state. Of the processes that read a shard at
    the same time, one fetches it. A store that tells neither ETag nor time has nothing kept.

    Raises RemoteError.
    """
    entry = info(path)
    if entry.size is None:
        raise RemoteError(f"{path}: its server does not tell its size, which a shard needs")
    if path.stamp != entry.stamp:
        path.stamp = entry.stamp
    if not path.versioned:
        yield RemoteFile(path, entry.size, {})
        return
    digest = hashlib.sha256(f"{path} {entry.stamp}".encode()).hexdigest()[:32]
    kept = cache_folder() / "shards" / digest
    with _kept_pieces(kept, path) as pieces:
        yield RemoteFile(path, entry.size, pieces)


@contextlib.contextmanager
def _kept_pieces(kept: Path, path: RemotePath) -> Iterator[dict[int, bytes]]:
    """The pieces in a file, which is written again if there are more of them at the end."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warn(f"{kept}: the index of {path} cannot be kept: {error.strerror}")
        yield {}
        return
    with one_at_a_time(kept.parent):
        pieces = _read_pieces(kept)
        count = len(pieces)
        yield pieces
        if count < len(pieces) and sum(map(len, pieces.values())) <= LARGEST_INDEX:
            try:
                _write_pieces(kept, pieces)
            except OSError as error:
                warn(f"{kept}: the index of {path} cannot be kept: {error.strerror}")


@contextlib.contextmanager
def local_copy(path: RemotePath) -> Iterator[Path]:
    """A temporary file of this machine with the content of an object. Raises RemoteError."""
    data = read_whole(path)
    with TemporaryDirectory(prefix="wsdan-") as folder:
        copy = Path(folder, path.name)
        copy.write_bytes(data)
        yield copy


def _read_pieces(path: Path) -> dict[int, bytes]:
    """What `_write_pieces` wrote; nothing where there is no such file, or a damaged one."""
    try:
        text = zlib.decompress(path.read_bytes())
    except (OSError, zlib.error):
        return {}
    pieces, at = {}, 0
    while at < len(text):
        offset, length = _PIECE.unpack_from(text, at)
        at += _PIECE.size
        pieces[offset] = text[at : at + length]
        at += length
    return pieces


def _write_pieces(path: Path, pieces: dict[int, bytes]) -> None:
    parts = (_PIECE.pack(offset, len(data)) + data for offset, data in pieces.items())
    with written_whole(path, "wb") as file:
        file.write(zlib.compress(b"".join(parts), 1))
