"""What an evaluation found by class: a table for the terminal, a csv file, JSON."""

import csv
import json
import math
from pathlib import Path

from wsdan.errors import UserError
from wsdan.inference.metrics import Evaluation


def per_class_table(result: Evaluation, classes: list[str]) -> str:
    """Top-1 accuracy of each class, worst first, with what it is most often taken for."""
    width = max(len(name) for name in [*classes, "class"])
    lines = [f"{'class':<{width}}  top-1    images  most often taken for"]
    accuracy = result.per_class.tolist()
    known = [label for label in range(len(classes)) if not math.isnan(accuracy[label])]
    wrong = result.confusion.clone().fill_diagonal_(0)
    for label in sorted(known, key=lambda label: accuracy[label]):
        mistakes, other = (int(value) for value in wrong[label].max(dim=0))
        lines.append(
            f"{classes[label]:<{width}} {accuracy[label]:5.1f} %  {int(result.images[label]):8d}"
            + (f"  {classes[other]} ({mistakes})" if mistakes else "")
        )
    if len(known) < len(classes):
        lines.append(f"no image of {len(classes) - len(known)} other classes")
    return "\n".join(lines)


def write_confusion(path: str | Path, result: Evaluation, classes: list[str]) -> None:
    """The confusion matrix as csv: a row a class, a column a prediction, both with names.

    Raises UserError where the file cannot be written.
    """
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["class", *classes])
            for name, row in zip(classes, result.confusion.tolist(), strict=True):
                writer.writerow([name, *row])
    except OSError as error:
        raise UserError(f"--confusion: cannot write {path}: {error.strerror}") from None


def evaluation_json(result: Evaluation, classes: list[str]) -> str:
    """All numbers of an evaluation as one JSON object; null for a class without an image."""
    accuracy = [None if math.isnan(value) else value for value in result.per_class.tolist()]
    return json.dumps(
        {
            **result.metrics,
            "classes": classes,
            "per_class": accuracy,
            "images_per_class": result.images.tolist(),
            "confusion": result.confusion.tolist(),
        }
    )
