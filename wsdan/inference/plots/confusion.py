"""The confusion matrix, with look-alike classes side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from wsdan.inference.explaining.fonts import text_style
from wsdan.inference.metrics import Evaluation
from wsdan.inference.plots.style import DPI, TEXT, TITLE, WIDTH, new_figure, short_names

MOST = 40  # classes that are shown
LONGEST_NAME = 40  # characters
TIE = 1e-3  # how far apart in label order two classes may be taken, against one mistake in all


class ConfusionTable(NamedTuple):
    """A part of a confusion matrix.

    labels: n classes, look-alikes together. counts: (n,n) int64, images by class and prediction.
    others: (n,) int64, images that were taken for a class that is not shown, or undecided.
    """

    labels: list[int]
    counts: np.ndarray
    others: np.ndarray


def confusion_table(result: Evaluation, most: int = MOST) -> ConfusionTable:
    """The classes with images, or the `most` of them that have part in the most mistakes, ordered
    so that classes which are taken for each other stand together."""
    confusion, images = result.confusion.numpy(), result.images.numpy()
    right = confusion.diagonal()
    mistakes = (images - right) + (confusion.sum(axis=0) - right)
    shown = np.flatnonzero((images > 0) | (mistakes > 0))
    if len(shown) > most:
        shown = np.sort(shown[np.argsort(-mistakes[shown], kind="stable")[:most]])
    labels = shown[clustered(confusion[np.ix_(shown, shown)], images[shown])]
    counts = confusion[np.ix_(labels, labels)]
    return ConfusionTable(labels.tolist(), counts, images[labels] - counts.sum(axis=1))


def clustered(counts: np.ndarray, images: np.ndarray) -> np.ndarray:
    """An order of n classes in which those that are taken for each other are neighbours: the leaves
    of an average-linkage clustering, the more alike the larger the share that is confused.

    counts: (n,n), images by class and prediction. images: (n,), of each class.
    """
    count = len(counts)
    if count < 3:
        return np.arange(count)
    shares = counts / np.maximum(images, 1)[:, None]
    alike = (shares + shares.T) / 2
    place = np.arange(count)
    apart = np.abs(place[:, None] - place) / count  # classes that are never confused keep order
    distance = 1 - alike.clip(0, 1) + TIE * apart
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return leaves_list(tree)


def draw_confusion(result: Evaluation, classes: Sequence[str], most: int = MOST) -> Figure:
    """The confusion matrix; correct predictions are blue, wrong ones orange."""
    table = confusion_table(result, most)
    labels, counts, others = table
    cells, columns = counts, len(labels)
    names = short_names([classes[label] for label in labels], LONGEST_NAME)
    if others.any():
        cells = np.concatenate([counts, others[:, None]], axis=1)
        columns += 1
    style = text_style("".join(names))
    size = 8 if columns > 30 else 9 if columns > 16 else TEXT
    margin = 0.3 + max(map(len, names)) * size * 0.6 / 72  # inches of the longest name
    side = min((WIDTH - margin - 0.3) / columns, 1.5)
    figure = new_figure(side * len(labels) + 0.85 * margin + 0.9)
    axes = figure.add_subplot()
    axes.imshow(_colours(cells, result.images.numpy()[labels]), aspect="equal")
    _write_counts(axes, cells, result.images.numpy()[labels], side)
    axes.set_yticks(range(len(labels)), names, fontsize=size, **style)
    ends = ["other class" if len(labels) < len(classes) else "none"] * (columns - len(labels))
    axes.set_xticks(
        range(columns), [*names, *ends], fontsize=size, rotation=90 if margin > side else 0, **style
    )
    axes.set_ylabel("true class", fontsize=TEXT)
    axes.set_xlabel("prediction", fontsize=TEXT)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(labels) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#DDDDDD", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    figure.suptitle(_title(result, len(labels)), fontsize=TITLE)
    return figure


def _title(result: Evaluation, shown: int) -> str:
    images, right = int(result.images.sum()), int(result.confusion.diagonal().sum())
    what = f"Confusion matrix of {int((result.images > 0).sum())} classes, {images:,} images, "
    what += f"{100 * right / max(images, 1):.1f} % correct"
    if shown < len(result.images):
        what += f"; the {shown} classes with most mistakes"
    return what + "\nnumbers: images; shade: share of the true class, blue correct, orange wrong"


def _colours(cells: np.ndarray, images: np.ndarray) -> np.ndarray:
    """(n,columns,3): the colour of each cell, white where there is no image."""
    shares = cells / np.maximum(images, 1)[:, None]
    colours = colormaps["Oranges"](0.15 + 0.75 * np.sqrt(shares))[..., :3]
    colours[:, len(cells) :] = colormaps["Greys"](0.1 + 0.3 * shares[:, len(cells) :])[..., :3]
    colours[cells == 0] = 1
    diagonal = np.arange(len(cells))
    right = shares[diagonal, diagonal]
    colours[diagonal, diagonal] = colormaps["Blues"](0.1 + 0.8 * right)[:, :3]
    return colours


def _write_counts(axes: Axes, cells: np.ndarray, images: np.ndarray, side: float) -> None:
    """The number of images in each cell, and its share in cells that are large enough."""
    longest = max((len(_short_number(int(cell))) for cell in cells[cells > 0]), default=1)
    size = min(side * 72 / max(1.8, 0.75 * longest), 12)  # points
    shares = cells / np.maximum(images, 1)[:, None]
    for row, column in zip(*np.nonzero(cells), strict=True):
        right, share = row == column, shares[row, column]
        text = _short_number(int(cells[row, column]))
        if side * DPI > 60:
            text += f"\n{100 * share:.0f} %"
        dark = share > (0.6 if right else 0.35) and column < len(cells)
        axes.text(
            column, row, text, ha="center", va="center", fontsize=size, in_layout=False,
            color="white" if dark else "black",
        )  # fmt: skip


def _short_number(count: int) -> str:
    """At most four characters: 999, 1.2k, 35k, 2M."""
    for unit, name in ((10**6, "M"), (10**3, "k")):
        if count >= unit:
            value = count / unit
            return f"{value:.1f}{name}" if value < 9.95 else f"{value:.0f}{name}"
    return str(count)
