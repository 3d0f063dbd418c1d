"""The logs of a run: config.yaml, metrics.jsonl, TensorBoard and a line on the terminal."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from wsdan.config import Config
from wsdan.constants import CONFIG
from wsdan.files import written_whole
from wsdan.inference.evaluate import VIEWS
from wsdan.output import print_if_possible
from wsdan.training.folder import CONFIG_HEAD, METRICS


class RunLogger:
    """Logs to the run's folder; without a folder, as in all ranks but the first, it does nothing.

    A write that the system refuses, for want of space for instance, is a warning; the run goes on.

    Args:
        epoch: the first epoch to be logged; TensorBoard drops older events of it and later ones.
    """

    def __init__(self, folder: Path | None, config: Config, epoch: int = 0):
        self._folder, self._epochs = folder, config.epochs
        self._writer: SummaryWriter | None = None
        if folder is not None:
            self._warn_on_error(self._write_config, config)
            self._warn_on_error(self._open_writer, epoch)

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._warn_on_error(self._writer.close)

    def log(self, record: dict) -> None:
        """Log an epoch's record to metrics.jsonl and TensorBoard."""
        if self._folder is None:
            return
        self._warn_on_error(self._append, record)
        for name, value in record.items():
            if self._writer is not None:
                self._warn_on_error(self._writer.add_scalar, name, value, record["epoch"])

    def print(self, record: dict) -> None:
        """Print an epoch's record; no error if nobody reads it."""
        if self._folder is not None:
            print_if_possible(self._line(record))

    def log_image(self, views: Tensor, epoch: int) -> None:
        """Log an image (3,H,W) uint8 of the views to TensorBoard."""
        if self._writer is not None:
            self._warn_on_error(self._writer.add_image, "views", views, epoch)

    def _write_config(self, config: Config) -> None:
        with written_whole(self._folder / CONFIG) as file:
            file.write(CONFIG_HEAD + config.to_yaml())

    def _open_writer(self, epoch: int) -> None:
        try:
            self._writer = SummaryWriter(str(self._folder), purge_step=epoch)
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

    def _warn_on_error(self, write: Callable, *arguments: object) -> None:
        """Call `write`; an OSError is a warning."""
        try:
            write(*arguments)
        except OSError as error:
            text = f"wsdan: warning: cannot write to {self._folder}: {error}"
            print_if_possible(text, error=True)
            if write != self._append:
                self._writer = None  # TensorBoard's writer cannot be used after an error

    def _line(self, record: dict) -> str:
        """The line of the terminal."""
        text = f"epoch {record['epoch'] + 1}/{self._epochs}: loss {record['loss']:.3f}"
        text += f", training accuracy {record['accuracy']:.1f} %"
        for view in VIEWS:
            if f"val_{view}" in record:
                text += f", {view} {record[f'val_{view}']:.1f} %"
        if record["bad"]:
            text += f", {record['bad']} unreadable images skipped"
        if record["skipped"]:
            text += f", {record['skipped']} steps without a finite loss skipped"
        return f"{text} ({record['seconds']:.1f} s)"
