"""Accuracy by class, and by score: is a score of 90 % right nine times in ten?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from wsdan.inference.explaining.fonts import text_style
from wsdan.inference.metrics import BINS, Evaluation, calibration_error, mean_confidence
from wsdan.inference.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    SMALL,
    TEXT,
    TITLE,
    new_figure,
    plain,
    short_names,
)

MOST = 40  # classes that are shown
LONGEST_NAME, LONGEST_OTHER = 42, 30  # characters


class ClassAccuracy(NamedTuple):
    """The accuracy of a class.

    accuracy: in percent. other: the class that it is most often taken for, `mistakes` times; None
    if it never is.
    """

    label: int
    images: int
    correct: int
    accuracy: float
    other: int | None
    mistakes: int


def class_accuracies(result: Evaluation) -> list[ClassAccuracy]:
    """Of each class that has images, worst first."""
    wrong = result.confusion.clone().fill_diagonal_(0)
    rows = []
    for label in result.images.nonzero().flatten().tolist():
        images, correct = int(result.images[label]), int(result.confusion[label, label])
        mistakes, other = (int(value) for value in wrong[label].max(dim=0))
        accuracy = 100 * correct / images
        rows.append(
            ClassAccuracy(label, images, correct, accuracy, other if mistakes else None, mistakes)
        )
    return sorted(rows, key=lambda row: row.accuracy)


def draw_per_class(result: Evaluation, classes: Sequence[str], most: int = MOST) -> Figure:
    """Bars of the accuracy of each class, or of the worst ones, and what they are taken for."""
    rows = class_accuracies(result)
    shown = rows[:most]
    some = len(shown) < len(rows)
    figure = new_figure(1.2 + 0.24 * max(len(shown), 4) + (1.6 if some else 0))
    if some:
        top, axes = figure.subplots(2, 1, height_ratios=(1.2, 0.24 * len(shown)))
        _histogram(top, rows)
    else:
        axes = figure.add_subplot()
    names = short_names([classes[row.label] for row in shown], LONGEST_NAME)
    others = short_names(list(classes), LONGEST_OTHER)
    style, places = text_style("".join([*names, *others])), range(len(shown))
    axes.barh(places, [row.accuracy for row in shown], 0.7, color=BLUE)
    for place, row in zip(places, shown, strict=True):
        texts = [f"{row.accuracy:.0f} %", f"{row.correct} of {row.images}"]
        if row.other is not None:
            texts.append(f"{row.mistakes} as {others[row.other]}")
        for x, text in zip((103, 118, 142), texts, strict=False):
            axes.text(x, place, text, va="center", fontsize=SMALL, in_layout=False, **style)
    mean = sum(row.accuracy for row in rows) / max(len(rows), 1)
    axes.axvline(mean, color=ORANGE, linestyle="--", linewidth=1.5)
    axes.set_yticks(places, names, fontsize=SMALL, **style)
    _shares(axes)
    axes.set(ylim=(len(shown) - 0.4, -0.6))
    axes.set_xlabel("accuracy in %", fontsize=TEXT, loc="left")
    title = f"Accuracy of the {len(shown)} worst of {len(rows)} classes" if some else (
        f"Accuracy of {len(rows)} classes")  # fmt: skip
    figure.suptitle(f"{title}; mean over the classes {mean:.1f} % (dashed)", fontsize=TITLE)
    return figure


def _histogram(axes: Axes, rows: list[ClassAccuracy]) -> None:
    axes.hist([row.accuracy for row in rows], bins=20, range=(0, 100), color=GREY)
    axes.set_title(f"Number of classes by accuracy, of all {len(rows)}", fontsize=TEXT, loc="left")
    _shares(axes)


def _shares(axes: Axes) -> None:
    """An axis from 0 to 100 % on the left, with room for text on its right."""
    plain(axes)
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, 245), xticks=(0, 25, 50, 75, 100))
    axes.spines["bottom"].set_bounds(0, 100)


def draw_reliability(calibration: Tensor) -> Figure:
    """Accuracy against score, and how many images have which score.

    calibration: (BINS,3), of an Evaluation.
    """
    images, scores, correct = calibration.numpy().T
    figure = new_figure(7.5, 7.5)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.arange(BINS) / BINS
    axes.bar(edges, correct, 1 / BINS, align="edge", color=BLUE, edgecolor="white",
             label="share of correct predictions")  # fmt: skip
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1.2, label="ideal")
    axes.plot(scores, correct, linestyle="none", marker="o", markersize=7, color=ORANGE,
              markeredgecolor="black", label="at the mean score of the bin")  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_ylabel("accuracy", fontsize=TEXT)
    axes.legend(fontsize=SMALL, loc="upper left")
    below.bar(edges, images, 1 / BINS, align="edge", color=GREY, edgecolor="white")
    below.set_ylabel("images", fontsize=TEXT)
    below.set_xlabel(f"score of the predicted class, {BINS} bins of equal width", fontsize=TEXT)
    for part in (axes, below):
        plain(part)
    figure.suptitle(_calibration_title(calibration), fontsize=TITLE)
    return figure


def _calibration_title(calibration: Tensor) -> str:
    images, _, correct = calibration.unbind(dim=1)
    if not images.any():
        return "Reliability: no image has a finite score"
    accuracy = float((images * correct).nansum() / images.sum())
    score, error = mean_confidence(calibration), calibration_error(calibration)
    kind = "over-confident" if score > accuracy else "under-confident"
    return (
        f"Reliability of {int(images.sum()):,} images: expected calibration error (ECE) "
        f"{100 * error:.1f} %\nmean score {100 * score:.1f} %, accuracy {100 * accuracy:.1f} %: "
        f"{kind} by {100 * abs(score - accuracy):.1f} points"
    )
