"""The logs of a run: config.yaml, metrics.jsonl, TensorBoard and a line on the terminal."""

import contextlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from wsdan.config import Config
from wsdan.constants import CONFIG, METRICS
from wsdan.files import written_whole
from wsdan.inference.evaluate import VIEWS
from wsdan.output import print_if_possible, warn
from wsdan.training.folder import CONFIG_HEAD
from wsdan.training.loggers import Loggers


class RunLogger:
    """Logs to the run's folder; without a folder, as in all ranks but the first, it does nothing.

    A write that the system refuses, for want of space for instance, is a warning; the run goes on.

    Args:
        epoch: the first epoch to be logged; TensorBoard drops older events of it and later ones.
    """

    def __init__(self, folder: Path | None, config: Config, epoch: int = 0):
        self._folder, self._config, self._epoch = folder, config, epoch
        self._writer: SummaryWriter | None = None
        self._loggers: Loggers | None = None
        self._thread_error: OSError | None = None
        self._excepthook = threading.excepthook

    def __enter__(self) -> "RunLogger":
        if self._folder is not None:
            threading.excepthook = self._thread_failed
            self._warn_on_error(self._write_config)
            self._warn_on_error(self._open_writer)
            self._loggers = Loggers(self._folder, self._config, self._epoch)
        return self

    def __exit__(self, *_: object) -> None:
        self._tensorboard("close")
        if self._loggers is not None:
            self._loggers.close()
        if self._writer is not None and self._thread_error is not None:
            self._warn(self._thread_error)  # of the last events, which nothing else has told
        if self._folder is not None:
            threading.excepthook = self._excepthook

    def log(self, record: dict) -> None:
        """Log an epoch's record to metrics.jsonl and TensorBoard."""
        if self._folder is None:
            return
        self._warn_on_error(self._append, record)
        for name, value in record.items():
            self._tensorboard("add_scalar", name, value, record["epoch"])
        if self._loggers is not None:
            self._loggers.log(record)

    def print(self, record: dict) -> None:
        """Print an epoch's record; no error if nobody reads it."""
        if self._folder is not None:
            print_if_possible(self._line(record))

    def log_image(self, views: Tensor, epoch: int) -> None:
        """Log an image (3,H,W) uint8 of the views to TensorBoard."""
        self._tensorboard("add_image", "views", views, epoch)

    def _tensorboard(self, method: str, *arguments: object) -> None:
        """Call a method of TensorBoard's writer, which is not used any more after an error."""
        if self._writer is not None and not self._warn_on_error(
            getattr(self._writer, method), *arguments
        ):
            self._writer = None

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Keep the error of the thread that writes TensorBoard's events: instead of a traceback, it
        is the warning at the next event."""
        own = type(failure.thread).__module__.startswith("tensorboard.")
        if own and isinstance(failure.exc_value, OSError):
            self._thread_error = failure.exc_value
        else:
            self._excepthook(failure)

    def _write_config(self) -> None:
        with written_whole(self._folder / CONFIG) as file:
            file.write(CONFIG_HEAD + self._config.to_yaml())

    def _open_writer(self) -> None:
        try:
            self._writer = SummaryWriter(str(self._folder), purge_step=self._epoch)
        except UnicodeError as error:
            raise OSError("TensorBoard takes no folder whose name is not UTF-8") from error

    def _append(self, record: dict) -> None:
        """Append a line to metrics.jsonl, whole or not at all; it is on the disk at the return."""
        path = self._folder / METRICS
        size = path.stat().st_size if path.exists() else 0
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise

    def _warn_on_error(self, write: Callable, *arguments: object) -> bool:
        """Call `write`; an OSError is a warning. Returns whether there was none."""
        try:
            write(*arguments)
        except OSError as error:
            self._warn(error)
            return False
        return True

    def _warn(self, error: OSError) -> None:
        warn(f"cannot write to {self._folder}: {error}")

    def _line(self, record: dict) -> str:
        """The line of the terminal."""
        text = f"epoch {record['epoch'] + 1}/{self._config.epochs}: loss {record['loss']:.3f}"
        text += f", training accuracy {record['accuracy']:.1f} %"
        for view in VIEWS:
            if f"val_{view}" in record:
                text += f", {view} {record[f'val_{view}']:.1f} %"
        if record["bad"]:
            text += f", {record['bad']} unreadable images skipped"
        if record["skipped"]:
            text += f", {record['skipped']} steps without a finite loss skipped"
        return f"{text} ({record['seconds']:.1f} s)"
