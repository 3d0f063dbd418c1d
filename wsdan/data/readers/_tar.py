"""The members of a tar archive, read to its end marker.

tarfile itself takes a header with a wrong checksum, and the end of the file, for the end of the
archive: what comes after is lost in silence. Here both are damage, as are sizes beyond the file.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
NO_END = "the file ends without the archive's end marker"
MAX_EXTENDED = 1 << 16  # bytes of an extended header: a long name, attributes
EXTENDED = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


class DamageError(Exception):
    """A place from which an archive cannot be read; `offset` is its first byte."""

    def __init__(self, offset: int, reason: str):
        super().__init__(f"at offset {offset}: {reason}")
        self.offset = offset


class _Header(tarfile.TarInfo):
    """A header that raises DamageError where tarfile would end the archive, or read beyond it."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        start = tar.fileobj.tell()
        try:
            _check_size(cls.frombuf(tar.fileobj.read(BLOCK), tar.encoding, tar.errors), tar.fileobj)
            tar.fileobj.seek(start)
            info = super().fromtarfile(tar)
            _check_extended(info, tar.fileobj)
            return info
        except tarfile.EOFHeaderError:
            raise  # a block of zeros, which is the end marker
        except tarfile.EmptyHeaderError:
            raise DamageError(start, NO_END) from None
        except RecursionError:
            raise DamageError(start, "too many extended headers in a row") from None
        except (tarfile.TarError, ValueError, IndexError, KeyError, OverflowError) as error:
            raise DamageError(start, str(error) or "damaged header") from None


def read_members(file: BinaryIO) -> tuple[list[tarfile.TarInfo], list[DamageError]]:
    """The members of the uncompressed archive in an open file, and each damaged place."""
    damage: list[DamageError] = []
    return list(members_one_by_one(file, damage)), damage


def members_one_by_one(file: BinaryIO, damage: list[DamageError]) -> Iterator[tarfile.TarInfo]:
    """The members, as they are read; `damage` gets each damaged place, after which members are read
    from the next whole header on."""
    start: int | None = 0
    while start is not None:
        file.seek(start)
        try:
            tar = tarfile.TarFile(fileobj=file, tarinfo=_Header)
            while (member := tar.next()) is not None:
                tar.members.clear()  # which tarfile keeps for access by name
                yield member
            _check_end(file, tar.offset)
            start = None
        except DamageError as error:
            damage.append(error)
            start = _next_header(file, error.offset + BLOCK)
        except tarfile.ReadError:  # the last member is whole, but nothing comes after it
            damage.append(DamageError(_length(file), NO_END))
            start = None


def _check_size(info: tarfile.TarInfo, file: BinaryIO) -> None:
    """Raise tarfile.ReadError for a member that would end behind the file; `file` is at its data.

    Links and folders have no data, whatever their size.
    """
    extended = info.type in EXTENDED
    if not (extended or info.isreg() or info.type not in tarfile.SUPPORTED_TYPES):
        return
    left = _length(file) - file.tell()
    if not 0 <= info.size <= left:
        raise tarfile.ReadError(f"a member of {info.size} bytes, but {left} are left in the file")
    if extended and info.size > MAX_EXTENDED:
        raise tarfile.ReadError(f"an extended header of {info.size} bytes")


def _check_extended(info: tarfile.TarInfo, file: BinaryIO) -> None:
    """The same for a size in an extended header; sparse members have no bytes of their own."""
    size = info.pax_headers.get("size", "0")
    if not (size.isascii() and size.isdigit() and len(size) <= 20):
        raise tarfile.ReadError(f"an extended header with the size {size[:40]!r}")
    left = _length(file) - info.offset_data
    if info.isreg() and not 0 <= info.size <= left:
        raise tarfile.ReadError(f"a member of {info.size} bytes, but {left} are left in the file")
    if info.sparse is not None:
        raise tarfile.ReadError(f"{info.name[:200]} is a sparse file; write the archive without")


def _check_end(file: BinaryIO, end: int) -> None:
    """Raise DamageError unless all is zero from the end marker at the offset `end` on."""
    file.seek(end)
    while chunk := file.read(1 << 20):
        if chunk.count(0) < len(chunk):
            raise DamageError(end, "a block of zeros, and data behind it")


def _next_header(file: BinaryIO, offset: int) -> int | None:
    """The offset of the next whole header from `offset` on, in steps of a block; None: no more."""
    file.seek(offset)
    while len(block := file.read(BLOCK)) == BLOCK:
        if block[257:262] == b"ustar":
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except (tarfile.HeaderError, ValueError):
                pass
            else:
                return offset
        offset += BLOCK
    return None


def _length(file: BinaryIO) -> int:
    here = file.tell()
    length = file.seek(0, 2)
    file.seek(here)
    return length


def damage_line(shard: Path, damage: list[DamageError]) -> str:
    """What is said of a damaged shard: its first damaged place, and the number of them."""
    more = f" and {len(damage) - 1} more places" if len(damage) > 1 else ""
    return f"{shard}: not an uncompressed, whole tar file: {damage[0]}{more}"
