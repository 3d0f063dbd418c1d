"""Access to the objects behind addresses, each attempt repeated where the error may pass.

File systems are made by fsspec in each process: its event loop does not outlive a fork, and so its
cache of instances is by process.
"""

import importlib.util
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from wsdan.files import TEMPORARY
from wsdan.remote.addresses import RemotePath, is_web, protocol_of
from wsdan.remote.errors import NotThereError, RemoteError
from wsdan.remote.retries import persistently

CONNECT, READ = 10, 30  # seconds of a connection, and of a wait for the next bytes
CHUNK = 1 << 23  # bytes of a request for a part of a large object
# Stores where an object appears as a whole when its upload is complete, in one request or several.
WHOLE_UPLOADS = {"s3", "s3a", "gs", "gcs", "hf", "abfs", "abfss", "az", "memory"}
# In what a store tells of an object, the first by which its content is known.
_TAGS = (
    "ETag", "etag", "md5Hash", "blob_id", "Content-MD5", "LastModified", "Last-Modified", "mtime",
)  # fmt: skip
_HINTS = {"hf": "hub", "s3": "remote", "s3a": "remote", "http": "remote", "https": "remote"}

# The file systems of this process and of those it was forked from, whose connections would be
# closed, with a traceback, where the last reference to one ends in the fork.
_held: dict[int, Any] = {}


@dataclass(frozen=True)
class Entry:
    """A file or folder of a listing; size in bytes, None if unknown; stamp as of RemotePath."""

    path: RemotePath
    folder: bool
    size: int | None
    stamp: str


def check_installed_for(address: str) -> None:
    """Raise RemoteError where a package that the address needs is not installed, or the protocol
    is unknown."""
    protocol = protocol_of(address)
    extra = _HINTS.get(protocol, "remote")
    if importlib.util.find_spec("fsspec") is None:
        raise RemoteError(f"{address} needs fsspec; pip install 'wsdan[{extra}]'")
    from fsspec import get_filesystem_class

    try:
        get_filesystem_class(protocol)
    except ImportError as error:
        how = f"pip install 'wsdan[{extra}]'" if protocol in _HINTS else str(error)
        raise RemoteError(f"{address} needs another package; {how}") from None
    except ValueError:
        raise RemoteError(f"{address}: no protocol {protocol[:20]} is known") from None


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address in this process, and the path in it."""
    check_installed_for(address)
    from fsspec.core import url_to_fs

    protocol = protocol_of(address)
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        once = {"total_max_attempts": 1}  # `persistently` repeats
        options["config_kwargs"] = {
            "connect_timeout": CONNECT, "read_timeout": READ, "retries": once
        }  # fmt: skip
    elif protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=CONNECT, sock_read=READ)
        options["client_kwargs"] = {"timeout": timeout}
    try:
        system, path = url_to_fs(address, **options)
    except (ValueError, TypeError) as error:
        raise RemoteError(f"{address}: {str(error).splitlines()[0]}") from None
    if protocol in ("s3", "s3a"):
        system.retries = 1
    _held[id(system)] = system
    return system, path


def info(path: RemotePath) -> Entry:
    """What the store knows of a file or folder. Raises NotThereError if there is none."""

    def access() -> Entry:
        system, where = _opened(str(path))
        return _entry(path, system.info(where))

    return persistently(str(path), access)


def exists(path: RemotePath) -> bool:
    """Whether there is a file or folder of the address."""
    try:
        info(path)
    except NotThereError:
        return False
    return True


def is_file(path: RemotePath) -> bool:
    """Whether there is an object of the address."""
    try:
        return not info(path).folder
    except NotThereError:
        return False


def is_folder(path: RemotePath) -> bool:
    """Whether there is anything below the address."""
    try:
        return bool(entries(path))
    except NotThereError:
        return False


def entries(path: RemotePath) -> list[Entry]:
    """The files and folders in a folder, sorted. Raises NotThereError if there is none."""

    def access() -> list[Entry]:
        system, where = _opened(str(path))
        return _listed(path, system, where, system.ls(where, detail=True))

    return sorted(persistently(str(path), access), key=lambda entry: entry.path)


def files_below(path: RemotePath) -> list[Entry]:
    """The files at any depth below a folder, sorted: one listing."""

    def access() -> list[Entry]:
        system, where = _opened(str(path))
        # Where it must ask folder by folder, an error of one must not count as an empty folder.
        how = {} if protocol_of(path) in WHOLE_UPLOADS else {"on_error": "raise"}
        return _listed(path, system, where, system.find(where, detail=True, **how).values())

    found = persistently(str(path), access)
    return sorted((item for item in found if not item.folder), key=lambda entry: entry.path)


def matching(path: RemotePath, pattern: str) -> list[RemotePath]:
    """The files in a folder whose names match a pattern, with their stamps, sorted."""
    found = [item for item in entries(path) if fnmatchcase(item.path.name, pattern)]
    return [RemotePath(str(item.path), item.stamp) for item in found if not item.folder]


def read_range(path: RemotePath, start: int, end: int) -> bytes:
    """The bytes start..end of an object, in one request. Raises RemoteError."""
    if end <= start:
        return b""

    def access() -> bytes:
        system, where = _opened(str(path))
        data = system.cat_file(where, start=start, end=end)
        if len(data) > end - start:
            raise RemoteError(f"{path}: its server takes no range requests")
        if len(data) < end - start:
            raise EOFError(f"{len(data)} of {end - start} bytes came from offset {start}")
        return data

    return persistently(str(path), access)


def read_whole(path: RemotePath) -> bytes:
    """An object, in one request after another for its parts; those of one version of it.

    Of the web, in a single request: not every server gives parts. Raises RemoteError.
    """

    def access() -> bytes:
        system, where = _opened(str(path))
        return system.cat_file(where)

    if is_web(path):
        return persistently(str(path), access)
    for _ in range(3):
        before = info(path)
        if before.folder:
            raise RemoteError(f"{path}: is a folder; name the file in it, such as best.pt")
        if before.size is None:
            return persistently(str(path), access)
        starts = range(0, before.size, CHUNK)
        parts = [read_range(path, at, min(at + CHUNK, before.size)) for at in starts]
        if len(parts) < 2 or info(path).stamp == before.stamp:
            return b"".join(parts)
    raise RemoteError(f"{path}: is written again and again while it is read")


def write_whole(path: RemotePath, data: bytes) -> None:
    """Write an object: until all of it is there, the address holds the old one. Raises RemoteError.

    Stores that do not promise this of an upload take it under another name, and rename it.
    """
    at_once = protocol_of(path) in WHOLE_UPLOADS
    target = path if at_once else RemotePath(f"{path}.{uuid.uuid4().hex}{TEMPORARY}")

    def access() -> None:
        system, where = _opened(str(target))
        if not at_once:
            system.makedirs(system._parent(where), exist_ok=True)
        system.pipe_file(where, data)
        size = system.info(where)["size"]
        if size != len(data):
            raise EOFError(f"{size} of {len(data)} bytes arrived")
        if not at_once:
            system.mv(where, _opened(str(path))[1])

    persistently(str(path), access)


def _listed(path: RemotePath, system: Any, where: str, items: Iterable[dict]) -> list[Entry]:
    """The entries of a listing, without the folder itself, the empty objects that stand for
    folders, and the links by which a page of the web is sorted."""
    found = []
    for item in items:
        entry = _entry(_below(path, system, where, item["name"]), item)
        marks = item["name"].endswith("/") and not entry.folder
        if entry.path != path and not marks and not (is_web(path) and "?" in item["name"]):
            found.append(entry)
    return found


def _below(path: RemotePath, system: Any, where: str, name: str) -> RemotePath:
    """The address of what a listing of `path`, in the file system `where`, calls `name`."""
    folder = system._strip_protocol(where).rstrip("/")
    own = system._strip_protocol(name).rstrip("/")
    if own == folder:
        return path
    return path / own.removeprefix(f"{folder}/")


def _entry(path: RemotePath, item: dict) -> Entry:
    tag = next((str(item[key]) for key in _TAGS if item.get(key)), "")
    size = item.get("size")
    stamp = "" if size is None else f"{size} {tag}"
    return Entry(path, item.get("type") == "directory", size, stamp)
