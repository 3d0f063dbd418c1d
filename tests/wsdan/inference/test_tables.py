"""The rows of predictions.csv and of `wsdan predict --csv`."""

import math

import pytest

from wsdan.inference.results import Result
from wsdan.inference.tables import Table


def result(scores=(0.75, 0.25), box=(1, 2, 30, 40), threshold=0.0) -> Result:
    names = ("a", "b")
    top = [
        {"class": name, "raw": 0.5, "refined": 1 / 3, "mean": score}
        for name, score in zip(names, scores, strict=True)
    ]
    return Result("x.png", (40, 50), top, list(box), None, threshold)


def cells(table: Table, row: list) -> dict:
    assert len(row) == len(table.header) == len(set(table.header))
    return dict(zip(table.header, row, strict=True))


@pytest.mark.parametrize("top", [1, 2, 5])
def test_a_row_has_a_cell_for_each_column(top):
    table = Table(top)
    found = cells(table, table.row(result()))
    assert (found["path"], found["prediction"], found["score"]) == ("x.png", "a", "0.75")
    assert (found["class_1"], found["refined_1"]) == ("a", "0.333333")
    assert [found[edge] for edge in ("x1", "y1", "x2", "y2")] == [1, 2, 30, 40]
    assert found["error"] == ""
    for rank in range(3, top + 1):  # there are two classes
        assert found[f"class_{rank}"] == found[f"mean_{rank}"] == ""


def test_the_truth_and_an_error():
    table = Table(2, truth=True)
    assert cells(table, table.row(result(), "b"))["truth"] == "b"
    found = cells(table, table.failed("y.png", "no such file", "b"))
    assert {name: cell for name, cell in found.items() if cell} == {
        "path": "y.png", "truth": "b", "error": "no such file",
    }  # fmt: skip


def test_a_plain_classifier_and_scores_that_are_no_numbers():
    table = Table(1)
    plain = Result("x.png", (4, 5), [{"class": "a", "raw": 0.9}], None, None)
    found = cells(table, table.row(plain))
    assert (found["raw_1"], found["refined_1"], found["mean_1"], found["x1"]) == ("0.9", "", "", "")
    found = cells(table, table.row(result((math.nan, math.nan))))
    assert (found["prediction"], found["score"], found["mean_1"]) == ("unknown", "", "")
    assert cells(table, table.row(result(threshold=0.8)))["prediction"] == "unknown"
