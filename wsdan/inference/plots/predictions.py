"""What an evaluation says of each image: predictions.csv, and the worst mistakes."""

import collections
import csv
import errno
import heapq
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from wsdan.config import Config
from wsdan.data.loaders import Batch
from wsdan.distributed import gather_objects, is_main
from wsdan.files import written_whole
from wsdan.inference.evaluate import Prediction
from wsdan.inference.plots.mistakes import Mistake
from wsdan.inference.results import results_of
from wsdan.inference.tables import Table

MOST = 12  # mistakes that are kept
CHUNK = 4096  # images whose rows the ranks exchange at once
TABLE = Table(truth=True)
ERRORS = "surrogateescape"  # names of files that are not UTF-8 are read back as they were


class PredictionLog:
    """Keeps, of each image of an evaluation, its row of predictions.csv, in a temporary file; and
    the mistakes with the highest scores. Its memory does not grow with the number of images.

    It is the `log` of `evaluate`. Under torchrun each rank has one. A full disk ends no evaluation:
    `write` tells of it.

    Args:
        classes: of the model. config: of the evaluation. most: mistakes that are kept.
    """

    def __init__(self, classes: list[str], config: Config, most: int = MOST):
        self._classes, self._config, self._most = classes, config, most
        self._rows: TextIO | None = None
        self._failure: str | None = None
        self._worst: list[tuple[float, int, Mistake]] = []  # a heap, the best of them first

    def __call__(self, prediction: Prediction, batch: Batch) -> None:
        """Add a batch and its predictions."""
        names = list(batch.names)
        results = results_of(prediction, names, batch.sizes, self._classes, self._config)
        truths = [self._classes[label] for label in batch.labels.tolist()]
        for result, truth, index in zip(results, truths, batch.indices, strict=True):
            if math.isfinite(result.score) and result.top[0]["class"] != truth:
                entry = (result.score, -index, Mistake(result, truth, index))
                add = heapq.heappush if len(self._worst) < self._most else heapq.heappushpop
                add(self._worst, entry)
        rows = zip(batch.indices, results, truths, strict=True)
        self._keep([[index, *TABLE.row(result, truth)] for index, result, truth in rows])

    def _keep(self, rows: list[list]) -> None:
        if self._failure is not None:
            return
        try:
            if self._rows is None:
                how = {"encoding": "utf-8", "errors": ERRORS, "newline": ""}
                self._rows = tempfile.TemporaryFile("w+", **how)  # noqa: SIM115 - ends with self
            csv.writer(self._rows).writerows(rows)
            self._rows.flush()
        except OSError as error:
            self._failure = f"temporary files cannot be written: {error.strerror}"

    def worst(self) -> list[Mistake]:
        """The mistakes of all ranks with the highest scores, highest first. All ranks call it."""
        found = [entry for part in gather_objects(self._worst) for entry in part]
        found = heapq.nlargest(self._most, found, key=lambda entry: entry[:2])
        return [mistake for *_, mistake in found]

    def write(self, path: Path, length: int) -> None:
        """Write the rows of all ranks in the order of the dataset, whole or not at all. All ranks
        call it; the first one writes.

        length: of the dataset. Raises OSError in the first rank.
        """
        rows = self._all_rows(length)
        failures = [text for text in gather_objects(self._failure) if text is not None]
        try:
            if is_main() and failures:
                raise OSError(errno.ENOSPC, failures[0])
            if is_main():
                with written_whole(path) as file:
                    writer = csv.writer(file, lineterminator="\n")
                    writer.writerow(TABLE.header)
                    writer.writerows(rows)
        finally:
            collections.deque(rows, maxlen=0)  # the ranks' exchange goes on to its end

    def _all_rows(self, length: int) -> Iterator[list[str]]:
        """The rows of all ranks by index, CHUNK images at a time."""
        own = self._own_rows()
        row = next(own, None)
        for end in range(CHUNK, length + CHUNK, CHUNK):
            part = []
            while row is not None and int(row[0]) < end:
                part.append(row)
                row = next(own, None)
            found = [row for part in gather_objects(part) for row in part]
            yield from (row[1:] for row in sorted(found, key=lambda row: int(row[0])))

    def _own_rows(self) -> Iterator[list[str]]:
        if self._rows is not None:
            self._rows.seek(0)
            yield from csv.reader(self._rows)
