"""The copy of a run's files at a remote address (--mirror), and fetching them from there."""

from pathlib import Path

from wsdan.constants import CONFIG, METRICS
from wsdan.errors import UserError
from wsdan.files import one_at_a_time, written_whole
from wsdan.output import warn
from wsdan.remote.addresses import RemotePath
from wsdan.remote.errors import NotThereError, RemoteError
from wsdan.remote.store import exists, read_whole, write_whole

LAST, BEST = "last.pt", "best.pt"
# In the order in which they are copied: last.pt, from which a run goes on, when the rest is there.
ORDER = (BEST, CONFIG, METRICS, LAST)


class Mirror:
    """Copies files of a run's folder to an address; one that failed is copied the next time."""

    def __init__(self, folder: Path, address: str):
        self._folder, self._address = folder, RemotePath(address)
        self._changed: set[str] = set()

    def begin(self) -> None:
        """Copy config.yaml, so that a store that takes nothing ends the run before its first step.

        Raises RemoteError.
        """
        write_whole(self._address / CONFIG, (self._folder / CONFIG).read_bytes())

    def update(self, *changed: str) -> bool:
        """Copy the changed files, each of which replaces the old one as a whole.

        Returns whether all are there; a warning says why not.
        """
        self._changed |= {CONFIG, METRICS, *changed}
        for name in ORDER:
            path = self._folder / name
            if name not in self._changed or not path.exists():
                continue
            try:
                write_whole(self._address / name, path.read_bytes())
            except RemoteError as error:
                warn(f"--mirror: {error}; it is copied again after the next checkpoint")
                return False
            except OSError as error:
                warn(f"--mirror: cannot read {path}: {error.strerror}")
                return False
            self._changed.discard(name)
        return True


def check_mirror(address: str) -> None:
    """Raise UserError if the address holds a run, which a new one would replace."""
    if exists(RemotePath(address) / LAST):
        raise UserError(f"--mirror: {address} already holds a run; pass --resume or --overwrite")


def fetch_run(folder: Path, address: str) -> None:
    """Bring the files of a run from its mirror into the folder, if that has no last.pt.

    The processes of a machine may call it together. Raises UserError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder):
            if (folder / LAST).exists():
                return
            found = {name: _content(RemotePath(address) / name) for name in ORDER}
            for name in ORDER:
                if (content := found[name]) is not None:
                    with written_whole(folder / name, "wb") as file:
                        file.write(content)
    except OSError as error:
        raise UserError(f"--out: cannot write to {folder}: {error.strerror}") from None


def _content(path: RemotePath) -> bytes | None:
    try:
        return read_whole(path)
    except NotThereError:
        return None
