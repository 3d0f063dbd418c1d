"""Reports of an evaluation: a per-class table, the confusion matrix as CSV, and JSON."""

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path

from wsdan.errors import UserError, printable
from wsdan.files import written_whole
from wsdan.inference.evaluate import WrongImage
from wsdan.inference.metrics import Evaluation


def per_class_table(result: Evaluation, classes: list[str]) -> str:
    """Top-1 accuracy of each class, lowest first, with its most frequent wrong prediction."""
    names = [printable(name) for name in classes]
    width = max(len(name) for name in [*names, "class"])
    lines = [f"{'class':<{width}}  top-1    images  most often taken for"]
    accuracy = result.per_class.tolist()
    known = [label for label in range(len(classes)) if not math.isnan(accuracy[label])]
    wrong = result.confusion.clone().fill_diagonal_(0)
    for label in sorted(known, key=lambda label: accuracy[label]):
        mistakes, other = (int(value) for value in wrong[label].max(dim=0))
        lines.append(
            f"{names[label]:<{width}} {accuracy[label]:5.1f} %  {int(result.images[label]):8d}"
            + (f"  {names[other]} ({mistakes})" if mistakes else "")
        )
    if len(known) < len(classes):
        lines.append(f"no image of {len(classes) - len(known)} other classes")
    return "\n".join(lines)


def write_confusion(path: str | Path, result: Evaluation, classes: list[str]) -> None:
    """Write the confusion matrix as CSV: one row per class, one column per prediction, with names.

    Raises UserError if the file cannot be written.
    """
    rows = zip(classes, result.confusion.tolist(), strict=True)
    _write_csv("--confusion", path, ["class", *classes], ([name, *row] for name, row in rows))


def write_errors(path: str | Path, wrong: list[WrongImage], classes: list[str]) -> None:
    """Write the wrong images as CSV: path, true class, predicted class ("" where a score is not
    finite) and the probability of each class, in label order.

    Raises UserError if the file cannot be written.
    """
    rows = (
        [item.path, classes[item.truth], "" if item.prediction < 0 else classes[item.prediction]]
        + [f"{score:.6g}" for score in item.scores]
        for item in wrong
    )
    _write_csv("--errors", path, ["path", "truth", "prediction", *classes], rows)


def _write_csv(option: str, path: str | Path, header: list, rows: Iterable[list]) -> None:
    """Write a table, whole or not at all; names that are not UTF-8 are escaped."""
    try:
        with written_whole(Path(path)) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
    except OSError as error:
        raise UserError(f"{option}: cannot write {path}: {error.strerror}") from None


def evaluation_json(result: Evaluation, classes: list[str]) -> str:
    """All results of an evaluation as a JSON object; null for a class or a bin without images."""
    return json.dumps(
        {
            **result.metrics,
            "classes": classes,
            "per_class": [_or_none(value) for value in result.per_class.tolist()],
            "images_per_class": result.images.tolist(),
            "confusion": result.confusion.tolist(),
            "calibration": [
                {"images": int(images), "score": _or_none(score), "accuracy": _or_none(accuracy)}
                for images, score, accuracy in result.calibration.tolist()
            ],
        }
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
