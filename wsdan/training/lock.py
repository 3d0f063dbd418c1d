"""The lock of a run's folder: one run at a time writes there, from this machine or another."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from wsdan.errors import UserError
from wsdan.files import TEMPORARY
from wsdan.output import warn

LOCK = "run.lock"
HEARTBEAT = 30.0  # seconds between renewals of the lock's modification time
STALE = 300.0  # seconds without one, after which the lock of another machine was left behind
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # of such a file system


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Args:
        kernel: the machine's start and the namespace in which `pid` counts; "" where unknown.
        started: when the process started, by the kernel's clock: numbers are used again.
    """

    host: str
    kernel: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} of {self.host}"


class RunLock:
    """A context that holds run.lock in a folder from `take` to its end.

    The file names its owner. A dead owner on this machine is found out by its process; elsewhere it
    counts as dead when its heartbeat, the file's modification time, is older than STALE.
    """

    def __init__(self):
        self._path: Path | None = None
        self._text = ""
        self._renewed = 0.0
        self._ended = threading.Event()

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._path is not None and not self._lost():
            with contextlib.suppress(OSError):  # e.g. a disk that became read-only
                self._path.unlink(missing_ok=True)

    def take(self, folder: Path) -> None:
        """Lock the folder; the lock of a dead run is taken over with a warning.

        Raises UserError if a living run holds it, or if it cannot be written.
        """
        path, text = folder / LOCK, json.dumps(asdict(_this_process()))
        try:
            while not _created(path, text):
                dead = check_unlocked(folder)
                if dead is not None:
                    _remove_dead(path, dead)
            self._path, self._text, self._renewed = path, _read(path), time.time()
        except OSError as error:
            raise UserError(f"--out: cannot lock {path}: {error.strerror}") from None
        threading.Thread(target=self._beat, name="wsdan lock", daemon=True).start()

    def check(self) -> None:
        """Raise UserError if another run has the lock: this one was suspended for too long."""
        if self._path is not None and self._lost():
            raise UserError(
                f"{self._path.parent}: another run has taken it over, since this one gave no sign "
                f"of life for {STALE:.0f} s"
            )

    def _lost(self) -> bool:
        try:
            text = _read(self._path)
        except OSError:  # a disk that is away; the run's writes say so
            return False
        if text is None:  # removed by a user, or by a run that took it over and has ended
            return time.time() - self._renewed > STALE
        return text != self._text

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT) and not self._lost():
            with contextlib.suppress(OSError):
                os.utime(self._path)
                self._renewed = time.time()


def check_unlocked(folder: Path) -> str | None:
    """Raise UserError if a living run holds the folder; returns the text of a dead one's lock."""
    path = folder / LOCK
    try:
        text = _read(path)
        if text is None:
            return None
        owner = _owner(text)
        if owner is not None and owner.kernel == _kernel() != "" and not _hidden(owner.pid):
            if _started(owner.pid) == owner.started:
                raise UserError(f"--out: {folder} is in use by process {owner.pid}")
            return text
        silence = _now(folder) - path.stat().st_mtime
    except FileNotFoundError:  # just released
        return None
    except OSError as error:
        raise UserError(f"--out: cannot read {path}: {error.strerror}") from None
    if silence < STALE:
        raise UserError(
            f"--out: {folder} is in use by {owner or 'another run'}, which gave a sign of life "
            f"{max(silence, 0):.0f} s ago; if it is dead, wait until that is {STALE:.0f} s or "
            f"delete {path}"
        )
    return text


def _created(path: Path, text: str) -> bool:
    """Create the lock; False if there is one. On a full disk it stays empty, and is a lock.

    It appears with its text, by a link: a process that is killed here leaves no lock without an
    owner. Only where the file system has no links it is created first, and then written.
    """
    whole = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        _write(whole, text, os.O_TRUNC)
        os.link(whole, path)
    except FileExistsError:
        return False
    except FileNotFoundError:  # removed by the process that has just got the lock
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:
            _write(path, text, os.O_EXCL)
        except FileExistsError:
            return False
    finally:
        with contextlib.suppress(OSError):
            whole.unlink(missing_ok=True)
    return True


def _write(path: Path, text: str, how: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o666)
    with contextlib.suppress(OSError):  # a full disk
        os.write(descriptor, text.encode())
    os.close(descriptor)


def _remove_dead(path: Path, text: str) -> None:
    """Remove a dead run's lock, unless another process has done so and holds its own by now."""
    try:
        with open(path, "r+", encoding="utf-8", errors="replace") as file:
            with contextlib.suppress(OSError):  # a file system that knows no locks
                fcntl.flock(file, fcntl.LOCK_EX)  # of several processes only one removes it
            same = os.path.samestat(os.fstat(file.fileno()), path.stat())
            if not same or file.read(4096) != text:
                return
            path.unlink()
    except FileNotFoundError:
        return
    owner = _owner(text) or "an unknown process"
    warn(f"{path} was left by {owner}, which is dead; it is taken over")


def _read(path: Path) -> str | None:
    """The text of a lock; None if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096)
    except FileNotFoundError:
        return None


def _owner(text: str) -> Owner | None:
    """The owner that a lock names; None if it is empty or was not written by this module."""
    try:
        owner = Owner(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (owner.host, owner.kernel, owner.started)
    known = all(isinstance(item, str) and item.isprintable() for item in texts)
    known = known and len(owner.host) < 256 and type(owner.pid) is int
    return owner if known and 0 < owner.pid < 1 << 31 else None


def _this_process() -> Owner:
    pid = os.getpid()
    return Owner(socket.gethostname(), _kernel(), pid, _started(pid) or "")


def _kernel() -> str:
    """Identifies the start of this machine, and the namespace of process numbers; "" if unknown."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{start} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine started; None if there is none, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _hidden(pid: int) -> bool:
    """Whether there is such a process, of another user, that /proc does not show (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not Path(f"/proc/{pid}").exists()
    except ProcessLookupError:
        pass
    return False


def _now(folder: Path) -> float:
    """The time by the clock that stamps the folder's files, a server's for instance."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
