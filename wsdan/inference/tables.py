"""Predictions as a table: one row for each image, readable or not."""

import csv
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wsdan.errors import UserError
from wsdan.files import written_whole
from wsdan.inference.results import Result

SCORES = ("raw", "refined", "mean")  # views with a column of their own
EDGES = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Table:
    """The columns and rows of predictions: path, [truth], prediction, score, the best classes with
    their probabilities in each view, the box, error.

    A plain classifier leaves the columns of refined, mean and box empty, --views raw those of
    refined and mean; so does an image that could not be read all but its path, truth and error.

    Args:
        top: best classes in a row, as columns class_1, raw_1, refined_1, mean_1, class_2, ....
        truth: whether there is a column with the name of the true class.
    """

    top: int = 5
    truth: bool = False

    @property
    def header(self) -> list[str]:
        names = ["path", *(["truth"] if self.truth else []), "prediction", "score"]
        for rank in range(1, self.top + 1):
            names += [f"class_{rank}", *(f"{view}_{rank}" for view in SCORES)]
        return [*names, *EDGES, "error"]

    def row(self, result: Result, truth: str = "") -> list:
        """The row of a result, box in pixels of the original image; the prediction of one below
        its threshold is "unknown"."""
        cells = [*self._start(result.image, truth), result.label, _number(result.score)]
        for entry in result.top[: self.top]:
            cells += [entry["class"], *(_number(entry.get(view)) for view in SCORES)]
        cells += [""] * ((self.top - len(result.top)) * (1 + len(SCORES)))
        return [*cells, *(result.box or [""] * len(EDGES)), ""]

    def failed(self, path: str, reason: str, truth: str = "") -> list:
        """The row of an image that could not be read."""
        cells = self._start(path, truth)
        return [*cells, *[""] * (len(self.header) - len(cells) - 1), reason]

    def _start(self, path: str | None, truth: str) -> list:
        return [path or "", *([truth] if self.truth else [])]


class TableFile:
    """A csv file whose rows come a few at a time: written whole at the end of the context, or not
    at all. Names that are not UTF-8 are escaped.

    Args:
        option: of the command line, which the UserError names if the file cannot be written.
    """

    def __init__(self, option: str, path: str | Path, table: Table):
        self._option, self._path, self._table = option, path, table

    def __enter__(self) -> "TableFile":
        self._context = written_whole(Path(self._path))
        with self._told():
            self._writer = csv.writer(self._context.__enter__(), lineterminator="\n")
        try:
            self.write([self._table.header])
        except UserError:
            self._context.__exit__(*sys.exc_info())
            raise
        return self

    def write(self, rows: list[list]) -> None:
        with self._told():
            self._writer.writerows(rows)

    def __exit__(self, *error: object) -> None:
        with self._told():
            self._context.__exit__(*error)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror
            raise UserError(f"{self._option}: cannot write {self._path}: {reason}") from None


def _number(value: float | None) -> str:
    """Six digits; "" for a view that is not there or a score that is not finite."""
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"
