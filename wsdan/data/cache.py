"""A cache of decoded and resized images, shared by all processes of a machine (--cache).

A cache is a file with one record of fixed size per image: a checksum, the original image's size,
and the pixels after the resize. `disk` is a file in `cache_folder`, which the next run on the same
images reuses. `ram` is an anonymous file in memory, which is freed with the last process that has
it open. A record is used only if its checksum matches, so a killed run or two writers at once
cannot leave a damaged image. Reads and writes give their offset, so processes that share the open
file do not interfere.
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
from wsdan.data.samples import Sample, TarMember
from wsdan.data.transforms import Size, resized_size
from wsdan.distributed import gather_objects, local_rank
from wsdan.errors import UserError
from wsdan.files import cache_folder
from wsdan.remote.addresses import RemotePath
from wsdan.validation import height_and_width

HEADER = struct.Struct("<III")  # checksum of the rest; width and height of the original image
VERSION = 2  # of the record format and of the pixels that `load_image` returns
SUFFIX = ".pictures"  # as in earlier versions, so that their caches are found


class ImageCache:
    """Images resized to `side` with a zoom (see `Transform`), by their index in the dataset.

    Args:
        path: the cache's file, of `record_bytes` per image.
        file: the same file if it is open already, unbuffered, for reading and writing.
    """

    def __init__(self, path: str, side: Size, file: FileIO | None = None, zoom: float = 1.0):
        self.path, self.side, self.zoom = path, side, zoom
        self.file = FileIO(path, "r+") if file is None else file

    def __reduce__(self):
        # A spawned worker opens the file itself.
        return ImageCache, (self.path, self.side, None, self.zoom)

    def get(self, index: int) -> tuple[Image.Image, tuple[int, int]] | None:
        """The resized image and the size of the original; None if it is not cached."""
        size = record_bytes(self.side, self.zoom)
        record = os.pread(self.file.fileno(), size, index * size)
        if len(record) < size:
            return None
        checksum, width, height = HEADER.unpack_from(record)
        if width == 0:
            return None
        size = resized_size(self.side, self.zoom, (width, height))
        written = memoryview(record)[: HEADER.size + 3 * size[0] * size[1]]
        if checksum != zlib.crc32(written[4:]):
            return None
        return Image.frombytes("RGB", size, written[HEADER.size :]), (width, height)

    def put(self, index: int, resized: Image.Image, original_size: tuple[int, int]) -> None:
        """Store a resized RGB image; original_size: (width, height) before the resize.

        A full disk is a warning; it can happen although the space was reserved.
        """
        record = bytearray(HEADER.pack(0, *original_size) + resized.tobytes())
        struct.pack_into("<I", record, 0, zlib.crc32(memoryview(record)[4:]))
        try:
            os.pwrite(self.file.fileno(), record, index * record_bytes(self.side, self.zoom))
        except OSError as error:
            warnings.warn(f"--cache: cannot write to {self.path}: {error.strerror}", stacklevel=2)


def record_bytes(side: Size, zoom: float = 1.0) -> int:
    """Bytes per image; with a zoom, of the largest."""
    height, width = height_and_width(side)
    return HEADER.size + 3 * int(zoom * height) * int(zoom * width)


def open_cache(config: Config, samples: list[Sample], side: Size) -> ImageCache | None:
    """Open the cache of --cache, or return None. All processes of a run call it together.

    All space is reserved here, so that a run does not run out of it later.

    Raises UserError, in every process, if there is too little space.
    """
    if config.cache is None:
        return None
    node = os.environ.get("GROUP_RANK", "0")
    cache = path = message = None
    if local_rank() == 0:  # creates the cache; the node's other processes open it
        create = _create_in_memory if config.cache == "ram" else _create_on_disk
        try:
            needed = len(samples) * record_bytes(side, config.zoom)
            cache = create(needed, samples, side, config.zoom)
            path = cache.path
        except UserError as error:
            message = str(error)
    found = gather_objects((node, path, message))
    for _, _, message in found:
        if message is not None:
            raise UserError(message)
    shared = next(path for where, path, _ in found if where == node and path is not None)
    return ImageCache(shared, side, None, config.zoom) if cache is None else cache


def _create_on_disk(needed: int, samples: list[Sample], side: Size, zoom: float) -> ImageCache:
    folder = cache_folder()
    path = folder / f"{_key(samples, side, zoom)}{SUFFIX}"
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
            f"--cache disk: cannot reserve {_gigabytes(needed)} in {folder}: {error.strerror} "
            "(WSDAN_CACHE_DIR names another folder)"
        ) from None
    return ImageCache(str(path), side, None, zoom)


def _create_in_memory(needed: int, samples: list[Sample], side: Size, zoom: float) -> ImageCache:
    if not hasattr(os, "memfd_create"):
        raise UserError("--cache ram needs Linux; --cache disk works here")
    _check_space(needed, needed, free_memory(), "ram: memory")
    file = FileIO(os.memfd_create("wsdan-images"), "r+")
    try:
        _reserve(file.fileno(), needed)
    except OSError as error:
        raise UserError(
            f"--cache ram: cannot reserve {_gigabytes(needed)}: {error.strerror}"
        ) from None
    # Other processes open the anonymous file through this process's descriptor.
    return ImageCache(f"/proc/{os.getpid()}/fd/{file.fileno()}", side, file, zoom)


def _check_space(needed: int, lacking: int, free: int, where: str) -> None:
    if lacking > free:
        raise UserError(
            f"--cache {where} has {_gigabytes(free)} free; the images need {_gigabytes(needed)}"
        )


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS has no fallocate
        os.ftruncate(descriptor, size)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB ({count} bytes)"


def _key(samples: list[Sample], side: Size, zoom: float) -> str:
    """A file name that depends on the images, their sizes and the libraries' versions.

    Raises UserError for remote images of which a change would not be seen.
    """
    sizes = side if zoom == 1 else (side, zoom)
    digest = hashlib.sha256(
        repr((VERSION, sizes, torchvision.__version__, PIL.__version__)).encode()
    )
    for source, _, _ in samples:
        file = source.shard if isinstance(source, TarMember) else source
        offset = source.offset if isinstance(source, TarMember) else 0
        if isinstance(file, RemotePath):
            if not file.versioned:
                raise UserError(
                    f"--cache disk: the server of {file} tells neither ETag nor time, by which a "
                    "changed image would be known; --cache ram needs none"
                )
            digest.update(repr((str(file), offset, file.stamp)).encode())
            continue
        try:
            state = os.stat(file)
            stamp = (state.st_size, state.st_mtime_ns)
        except OSError:
            stamp = None  # the loader reports the unreadable image
        digest.update(repr((os.path.abspath(file), offset, stamp)).encode())
    return digest.hexdigest()[:32]


def free_memory() -> int:
    """Bytes of memory available to this process, within its control group's limit if it has one."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free  # no control group or no limit
    return min(free, limit - used + int(stat["inactive_file"]) + int(stat["active_file"]))
