"""The output folder of a run: its name, its files, and its checks."""

import json
import math
import os
from pathlib import Path

from wsdan.checkpoint import load_checkpoint
from wsdan.config import Config
from wsdan.constants import CONFIG, CURVES, FIGURES, METRICS, PREDICTIONS, REPRODUCED
from wsdan.errors import UserError
from wsdan.files import remove_temporary, written_whole
from wsdan.output import warn
from wsdan.remote.mirror import BEST, LAST, check_mirror
from wsdan.training.lock import LOCK, RunLock, check_unlocked

RUNS = Path("runs")
_FILES = (LAST, BEST, METRICS, CONFIG, REPRODUCED, "metrics.csv", "loggers.json")
_PLOTS = (CURVES, *FIGURES, PREDICTIONS)
CONFIG_HEAD = "# The settings of a run of wsdan train\n"  # by which its config.yaml is known


def check_run_folder(config: Config) -> None:
    """Raise UserError if --out cannot be written or another run uses it, if it holds a run and
    neither --resume nor --overwrite is given, or if there is nothing to resume. Creates nothing."""
    folder = RUNS if config.out is None else Path(config.out)
    exists = next(path for path in (folder, *folder.parents) if path.exists())
    if not exists.is_dir():
        raise UserError(f"--out: {exists} is no folder")
    if not os.access(exists, os.W_OK | os.X_OK):
        raise UserError(f"--out: cannot write to {exists}")
    if config.mirror is not None and not (config.resume or config.overwrite):
        check_mirror(config.mirror)
    if config.out is not None:
        for path in (folder / name for name in (*_FILES, LOCK)):
            if path.exists() and not path.is_file():
                raise UserError(f"--out: {path} is no file; a run writes one of this name")
        check_unlocked(folder)
        _check_content(config, folder)


def _check_content(config: Config, folder: Path) -> None:
    """Raise UserError if the folder holds a run that would be replaced, or none to resume."""
    failed = _failed_early(folder)
    if config.resume and not holds_checkpoint(folder):
        hint = "; its run ended before it saved one: pass no --resume" if failed else ""
        raise UserError(f"--resume: {folder} holds no {LAST}{hint}")
    holds_run = any((folder / name).exists() for name in _FILES) and not failed
    if holds_run and not (config.resume or config.overwrite):
        raise UserError(f"--out: {folder} already holds a run; pass --resume or --overwrite")


def _failed_early(folder: Path) -> bool:
    """Whether the folder holds a run that ended before its first checkpoint."""
    try:
        with open(folder / CONFIG, encoding="utf-8", errors="replace") as file:
            written_by_us = file.read(len(CONFIG_HEAD)) == CONFIG_HEAD
    except OSError:
        return False
    return written_by_us and not holds_checkpoint(folder)


def holds_checkpoint(folder: Path) -> bool:
    """Whether there is a run to resume."""
    return (folder / LAST).exists() or (folder / BEST).exists()


def open_run_folder(config: Config, lock: RunLock) -> Path:
    """Create the run's folder, or a new numbered one under runs/, lock it and return it.

    Removes the temporary files of a killed run and, with --overwrite or where it ended before its
    first checkpoint, all files of the run in it. Raises UserError.
    """
    folder = RUNS if config.out is None else Path(config.out)
    try:
        if config.out is None:
            folder = _numbered_folder(RUNS)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: cannot make the folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--out: cannot write to {folder}")
    lock.take(folder)
    _check_content(config, folder)  # again: another run may have begun and ended meanwhile
    for name in (*_FILES, *_PLOTS, LOCK):
        remove_temporary(folder, name)
    if config.overwrite or _failed_early(folder):
        names = (*_FILES, *_PLOTS)
        for path in [*folder.glob("events.out.tfevents.*"), *(folder / name for name in names)]:
            path.unlink(missing_ok=True)
    return folder


def keep_metrics_before(folder: Path, epoch: int) -> None:
    """Remove the lines of `epoch` and later, which a resumed run logs again, and broken lines.

    Warns of broken ones, which a kill or an editor leaves. Raises UserError if the file cannot be
    read or written.
    """
    path = folder / METRICS
    if not path.exists():
        return
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        epochs = [_epoch_of(line) for line in text.splitlines()]
        lines = zip(text.splitlines(), epochs, strict=True)
        kept = "".join(line + "\n" for line, found in lines if found < epoch)
        if kept != text:
            with written_whole(path) as file:
                file.write(kept)
    except OSError as error:
        raise UserError(f"--resume: cannot write {path}: {error.strerror}") from None
    if broken := epochs.count(math.inf):
        warn(f"{path}: lines that are no epoch's record were removed: {broken}")


def _epoch_of(line: str) -> float:
    """The epoch of a line of metrics.jsonl; infinity for a broken line."""
    try:
        epoch = json.loads(line)["epoch"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return math.inf
    return epoch if type(epoch) is int else math.inf


def load_last(folder: Path) -> tuple[Path, dict]:
    """The path and content of the checkpoint to resume: last.pt, or best.pt if last.pt is broken.

    Raises UserError if neither can be read.
    """
    try:
        return folder / LAST, load_checkpoint(folder / LAST)
    except UserError as error:
        if not (folder / BEST).exists():
            raise
        state = load_checkpoint(folder / BEST)
        warn(f"{error}; going on from {folder / BEST}")
        return folder / BEST, state


def _numbered_folder(parent: Path) -> Path:
    numbers = [int(path.name) for path in parent.glob("[0-9]*") if path.name.isdecimal()]
    number = max(numbers, default=0) + 1
    while True:
        folder = parent / f"{number:03d}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:  # another run created it first
            number += 1
