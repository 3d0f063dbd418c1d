"""Decoded images, kept where every process of a machine can read them.

A cache is a file with one record of fixed size for each image: its checksum, the image's size,
and its pixels after the resize. `disk` is a file that the next run on the same images finds
again; `ram` is one without a name, in memory alone, that is gone with the last process that holds
it. A record is believed if its checksum is right, so neither a killed run nor two writers at once
can leave half an image. Reads and writes name their position: processes that share the open file
cannot disturb each other.
"""

import hashlib
import os
import shutil
import struct
import warnings
import zlib
from io import FileIO
from pathlib import Path

import PIL
import torchvision
from PIL import Image

from wsdan.config import Config
from wsdan.data.samples import Member, Sample
from wsdan.distributed import gather_objects, local_rank
from wsdan.errors import UserError

HEADER = struct.Struct("<III")  # checksum of what follows; width, height of the image
VERSION = 2  # of the records and of what `load_image` makes of a file


class ImageCache:
    """Images of side x side by their index in the data set.

    Args:
        path: the cache's file, which holds `record_bytes` for every image.
        file: the same, where it is open already: unbuffered, to read and write.
    """

    def __init__(self, path: str, side: int, file: FileIO | None = None):
        self.path, self.side = path, side
        self.file = FileIO(path, "r+") if file is None else file

    def __reduce__(self):
        return ImageCache, (self.path, self.side)  # a worker that is not forked opens it anew

    def get(self, index: int) -> tuple[Image.Image, tuple[int, int]] | None:
        """The resized image and its size before that, or None where it is not kept yet."""
        size = record_bytes(self.side)
        record = os.pread(self.file.fileno(), size, index * size)
        if len(record) < size:
            return None
        checksum, width, height = HEADER.unpack_from(record)
        if width == 0 or checksum != zlib.crc32(memoryview(record)[4:]):
            return None
        pixels = memoryview(record)[HEADER.size :]
        return Image.frombytes("RGB", (self.side, self.side), pixels), (width, height)

    def put(self, index: int, resized: Image.Image, original_size: tuple[int, int]) -> None:
        """Keep an RGB image of side x side; original_size: (width, height) before the resize.

        A disk that takes no more, as it may although the space was asked for, is a warning.
        """
        record = bytearray(HEADER.pack(0, *original_size) + resized.tobytes())
        struct.pack_into("<I", record, 0, zlib.crc32(memoryview(record)[4:]))
        try:
            os.pwrite(self.file.fileno(), record, index * len(record))
        except OSError as error:
            warnings.warn(f"--cache: {self.path} takes no image: {error.strerror}", stacklevel=2)


def record_bytes(side: int) -> int:
    """What one image takes."""
    return HEADER.size + 3 * side * side


def open_cache(config: Config, samples: list[Sample], side: int) -> ImageCache | None:
    """The cache that --cache asks for, or None. All processes of a run call it together.

    The space is taken at once: a run that starts does not run out of it.

    Raises UserError, in every process, where there is too little of it.
    """
    if config.cache is None:
        return None
    node = os.environ.get("GROUP_RANK", "0")
    cache = path = mistake = None
    if local_rank() == 0:  # makes the machine's cache; its other processes open that
        make = _make_in_memory if config.cache == "ram" else _make_on_disk
        try:
            cache = make(len(samples) * record_bytes(side), samples, side)
            path = cache.path
        except UserError as error:
            mistake = str(error)
    found = gather_objects((node, path, mistake))
    for _, _, mistake in found:
        if mistake is not None:
            raise UserError(mistake)
    theirs = next(path for where, path, _ in found if where == node and path is not None)
    return ImageCache(theirs, side) if cache is None else cache


def cache_folder() -> Path:
    """Where --cache disk keeps its files: $WSDAN_CACHE_DIR, or ~/.cache/wsdan."""
    return Path(os.environ.get("WSDAN_CACHE_DIR") or Path.home() / ".cache" / "wsdan")


def _make_on_disk(needed: int, samples: list[Sample], side: int) -> ImageCache:
    folder = cache_folder()
    path = folder / f"{_key(samples, side)}.images"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
        lacking = needed - path.stat().st_size
        if lacking > 0:
            _check_space(needed, lacking, shutil.disk_usage(folder).free, f"disk: {folder}")
            with open(path, "r+b") as file:
                _reserve(file.fileno(), needed)
    except OSError as error:
        raise UserError(
            f"--cache disk: cannot keep {_gigabytes(needed)} in {folder}: {error.strerror} "
            "(WSDAN_CACHE_DIR names another folder)"
        ) from None
    return ImageCache(str(path), side)


def _make_in_memory(needed: int, samples: list[Sample], side: int) -> ImageCache:
    if not hasattr(os, "memfd_create"):
        raise UserError("--cache ram needs Linux; --cache disk works here")
    _check_space(needed, needed, free_memory(), "ram: memory")
    file = FileIO(os.memfd_create("wsdan-images"), "r+")
    try:
        _reserve(file.fileno(), needed)
    except OSError as error:
        raise UserError(
            f"--cache ram: no {_gigabytes(needed)} to be had: {error.strerror}"
        ) from None
    # Other processes open the nameless file by this one's number for it.
    return ImageCache(f"/proc/{os.getpid()}/fd/{file.fileno()}", side, file)


def _check_space(needed: int, lacking: int, free: int, where: str) -> None:
    if lacking > free:
        raise UserError(
            f"--cache {where} has {_gigabytes(free)} free; the images need {_gigabytes(needed)}"
        )


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS can only set the length
        os.ftruncate(descriptor, size)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB ({count} bytes)"


def _key(samples: list[Sample], side: int) -> str:
    """A name that other images, another side or other libraries do not share."""
    digest = hashlib.sha256(
        repr((VERSION, side, torchvision.__version__, PIL.__version__)).encode()
    )
    for source, _, _ in samples:
        file = source.shard if isinstance(source, Member) else source
        try:
            state = file.stat()
            stamp = (state.st_size, state.st_mtime_ns)
        except OSError:
            stamp = None  # the loader reports the image as bad
        offset = source.offset if isinstance(source, Member) else 0
        digest.update(repr((os.path.abspath(file), offset, stamp)).encode())
    return digest.hexdigest()[:32]


def free_memory() -> int:
    """Bytes that can be taken before the machine, or this control group, runs out."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free  # no control group, or one without a limit
    return min(free, limit - used + int(stat["inactive_file"]) + int(stat["active_file"]))
