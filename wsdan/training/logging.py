"""What a run writes down: config.yaml, metrics.jsonl, TensorBoard, a line on the terminal."""

import contextlib
import json
import os
import sys
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from wsdan.config import Config
from wsdan.inference.evaluate import VIEWS
from wsdan.training.folder import CONFIG, METRICS


class RunLogger:
    """Of the first rank: the others, without a folder, write nothing.

    A full disk does not end a run: that something could not be written is said, and it goes on.

    Args:
        epoch: the first that will be written. TensorBoard forgets what it was told of later ones.
    """

    def __init__(self, folder: Path | None, config: Config, epoch: int = 0):
        self._folder, self._epochs = folder, config.epochs
        self._board: SummaryWriter | None = None
        if folder is not None:
            self._try((folder / CONFIG).write_text, config.to_yaml())
            self._try(self._open_board, epoch)

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._try(self._board.close)

    def write(self, record: dict) -> None:
        """One epoch's record, to file, TensorBoard and terminal."""
        if self._folder is None:
            return
        self._try(self._append, record)
        for name, value in record.items():
            if self._board is not None:
                self._try(self._board.add_scalar, name, value, record["epoch"])
        print(self._line(record), flush=True)

    def show(self, views: Tensor, epoch: int) -> None:
        """An image (3,H,W) uint8 of the views, to TensorBoard."""
        if self._board is not None:
            self._try(self._board.add_image, "views", views, epoch)

    def _open_board(self, epoch: int) -> None:
        self._board = SummaryWriter(str(self._folder), purge_step=epoch)

    def _append(self, record: dict) -> None:
        """Add a line, on the disk before the checkpoint that counts on it, or nothing of it."""
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

    def _try(self, write, *arguments) -> None:
        try:
            write(*arguments)
        except OSError as error:
            print(f"wsdan: warning: cannot write to {self._folder}: {error}", file=sys.stderr)
            if write != self._append:
                self._board = None  # TensorBoard's writer is broken from then on

    def _line(self, record: dict) -> str:
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
