"""What the page says, as plain values: numbers, rows of tables, photographs and charts.

Nothing here knows of HTML; `page` fills in the template.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wsdan.inference.evaluate import VIEWS, final_accuracy
from wsdan.inference.metrics import Evaluation
from wsdan.reporting.charts import Chart, curves, histogram, reliability
from wsdan.reporting.observe import Example, Observed

MOST_CLASSES = 1000  # rows of the table: those of the lowest accuracy
MOST_PAIRS = 12
WHY_95 = 1.96  # standard deviations of a normal distribution that hold 95 %


@dataclass(frozen=True)
class ClassRow:
    """One class; accuracy, raw and precision in percent, None where there is nothing to count.

    mistakes: images that are not recognised. other: the label it is most often taken for, `taken`
    times; None where there is none.
    """

    label: int
    images: int
    accuracy: float | None
    raw: float | None
    precision: float | None
    mistakes: int
    other: int | None
    taken: int


@dataclass(frozen=True)
class Side:
    """Of a pair of classes, the images of one: those taken for the other, and a right one."""

    label: int
    mistakes: int
    images: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Pair:
    """Two classes, the one more often taken for the other first."""

    mistakes: int
    sides: tuple[Side, Side]


@dataclass(frozen=True)
class Calibration:
    """error: the expected calibration error in percent. confidence, accuracy: means in percent.

    chart: the reliability diagram. counts: how the confidences are distributed.
    """

    error: float
    confidence: float
    accuracy: float
    chart: Chart
    counts: Chart


@dataclass(frozen=True)
class Localisation:
    """Boxes of the refined view: areas in percent of the image, IoUs with the known ones."""

    whole: int
    area: float
    areas: Chart
    known: int
    found: float | None
    overlap: float | None
    overlaps: Chart | None


def class_rows(observed: Observed) -> list[ClassRow]:
    """The classes by accuracy, lowest first, those without an image last."""
    result = observed.evaluation
    confusion, images = result.confusion, result.images.tolist()
    predicted = confusion.sum(dim=0).tolist()
    right = confusion.diagonal().tolist()
    taken, others = confusion.clone().fill_diagonal_(0).max(dim=1)
    rows = [
        ClassRow(
            label=label,
            images=images[label],
            accuracy=_percent(right[label], images[label]),
            raw=_percent(int(observed.raw_correct[label]), images[label]),
            precision=_percent(right[label], predicted[label]),
            mistakes=images[label] - right[label],
            other=int(others[label]) if taken[label] else None,
            taken=int(taken[label]),
        )
        for label in range(observed.classes)
    ]
    return sorted(rows, key=lambda row: (row.images == 0, row.accuracy or 0.0, -row.images))


def confused_pairs(observed: Observed) -> list[Pair]:
    """The pairs of classes that are most often taken for each other, at most MOST_PAIRS."""
    wrong = observed.evaluation.confusion.clone().fill_diagonal_(0)
    both = (wrong + wrong.T).triu(1)
    counts, cells = both.flatten().topk(min(MOST_PAIRS, both.numel()))
    pairs = []
    for count, cell in zip(counts.tolist(), cells.tolist(), strict=True):
        if count > 0:
            labels = sorted(divmod(cell, observed.classes), key=lambda i: -int(wrong[i].sum()))
            first, second = labels
            if wrong[second, first] > wrong[first, second]:
                first, second = second, first
            sides = _side(observed, first, second), _side(observed, second, first)
            pairs.append(Pair(count, sides))
    return pairs


def _side(observed: Observed, label: int, other: int) -> Side:
    examples = sorted(observed.pairs.get((label, other), []), reverse=True)
    if label in observed.recognised:
        examples.append(observed.recognised[label])
    result = observed.evaluation
    mistakes = int(result.confusion[label, other])
    return Side(label, mistakes, int(result.images[label]), tuple(examples))


def calibration(result: Evaluation) -> Calibration | None:
    """None where no score is finite."""
    if "ece" not in result.metrics:
        return None
    images, _, right = result.calibration.unbind(dim=1)
    counts = [int(count) for count in images.tolist()]
    shares = [
        100 * part if count else None for part, count in zip(right.tolist(), counts, strict=True)
    ]
    accuracy = 100 * float((images * right).nansum() / images.sum())
    error, confidence = result.metrics["ece"], result.metrics["confidence"]
    summary = (
        f"Reliability diagram: mean confidence {confidence:.1f} %, accuracy {accuracy:.1f} %, "
        f"expected calibration error {error:.1f} %"
    )
    chart = reliability(shares, counts, summary)
    scores = histogram(counts, "confidence, %", "images", "How the scores are distributed")
    return Calibration(error, confidence, accuracy, chart, scores)


def localisation(observed: Observed) -> Localisation | None:
    """None for a plain classifier."""
    metrics = observed.evaluation.metrics
    if "refined_whole" not in metrics:
        return None
    area = f"The box covers {metrics['refined_area']:.0f} % of the image on average"
    areas = histogram(observed.areas.tolist(), "area of the box, % of the image", "images", area)
    known, overlap, overlaps = metrics.get("boxes", 0), None, None
    if known:
        overlap = observed.overlap / known
        summary = f"IoU of the box with the known one: {overlap:.2f} on average"
        name = "IoU with the known box, %"
        overlaps = histogram(observed.overlaps.tolist(), name, "images", summary)
    return Localisation(
        metrics["refined_whole"], metrics["refined_area"], areas, known,
        metrics.get("localised"), overlap, overlaps,
    )  # fmt: skip


def training_curves(records: list[dict[str, float]]) -> list[Chart]:
    """Loss, accuracy and learning rate by epoch: those of which there are numbers."""
    views = {f"val_{view}": name for view, name in VIEWS.items()}
    charts = (
        curves(records, {"loss": "training loss", "val_loss": "validation loss"}, "loss"),
        curves(records, {"accuracy": "training", **views}, "top-1 accuracy, %", " %"),
        curves(records, {"lr": "learning rate"}, "learning rate"),
    )
    return [chart for chart in charts if chart is not None]


def interval(result: Evaluation) -> tuple[float, float]:
    """The 95 % interval (Wilson's) of the final accuracy, in percent."""
    n, p = result.metrics["images"], final_accuracy(result.metrics) / 100
    z = WHY_95**2 / n
    middle = (p + z / 2) / (1 + z)
    half = math.sqrt(z * p * (1 - p) + z * z / 4) / (1 + z)
    return 100 * (middle - half), 100 * (middle + half)


def examples_of(observed: Observed, pairs: Sequence[Pair]) -> list[Example]:
    """All images that the page shows."""
    return observed.worst + [x for pair in pairs for side in pair.sides for x in side.examples]


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
