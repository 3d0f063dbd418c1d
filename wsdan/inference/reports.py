"""Reports of an evaluation: a per-class table, the confusion matrix as CSV, and JSON."""

import csv
import json
import math
from pathlib import Path

from wsdan.errors import UserError
from wsdan.inference.metrics import Evaluation


def per_class_table(result: Evaluation, classes: list[str]) -> str:
    """Top-1 accuracy of each class, lowest first, with its most frequent wrong prediction."""
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
    """Write the confusion matrix as CSV: one row per class, one column per prediction, with names.

    Raises UserError if the file cannot be written.
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
    """All results of an evaluation as a JSON object; null for a class without images."""
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
