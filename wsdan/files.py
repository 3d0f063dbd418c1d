"""Files that are written whole: under a temporary name of this process, which is then renamed."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TEMPORARY = ".tmp"  # suffix of a file that is being written


@contextlib.contextmanager
def written_whole(path: Path, mode: str = "w") -> Iterator[IO]:
    """A file to write ("w": UTF-8 text, "wb": bytes) that then replaces `path`.

    It is flushed to the disk first: if the process is killed, `path` is either the old file or the
    new one. After an error, of the context or of the system (OSError), it is the old one. Of a link
    the target is replaced; a device or a pipe, such as /dev/stdout, is written to. Text that UTF-8
    does not have, of a file's name that is not UTF-8, is escaped.
    """
    path = Path(os.path.realpath(path))
    how = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace"}
    if path.exists() and not (path.is_file() or path.is_dir()):
        with open(path, mode, opener=_open_at_once, **how) as file:
            yield file
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, mode, **how) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # e.g. a disk that became read-only
            temporary.unlink(missing_ok=True)
        raise


def _open_at_once(path: str, flags: int) -> int:
    """Open a pipe or a device; a pipe that nobody reads is an OSError, not a wait for a reader."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


def cache_folder() -> Path:
    """The folder of --cache disk and of the indexes of remote shards: $WSDAN_CACHE_DIR, or
    ~/.cache/wsdan."""
    return Path(os.environ.get("WSDAN_CACHE_DIR") or Path.home() / ".cache" / "wsdan")


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let processes of this machine, and of others where the file system has locks, into the block
    one after another."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system that knows no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def size_text(path: Path) -> str:
    """The size of a file in MB of 10^6 bytes, or in kB if it is below one."""
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def remove_temporary(folder: Path, name: str) -> None:
    """Remove what processes that were killed left of the file `name`; none may be writing it."""
    for path in folder.glob(f"{name}*{TEMPORARY}"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entries to the disk, so that a power cut does not undo the renaming."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
