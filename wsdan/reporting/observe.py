"""One pass over the validation images: counts, and the few examples that the page shows.

What is kept does not grow with the number of images: counts, the worst errors, and of each cell of
the confusion matrix at most a few examples.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsdan.config import Config
from wsdan.data.loaders import Batch
from wsdan.inference.evaluate import VIEWS, NoImagesError, Prediction, count_bad, predict_views
from wsdan.inference.metrics import ClassificationMetrics, Evaluation, iou
from wsdan.precision import input_dtype

WORST = 24  # errors that are shown
PER_PAIR = 1  # images of a class that are taken for a certain other one
BOX_BINS = 10  # of a box's share of the image, and of the IoU


class Example(NamedTuple):
    """An image: final score of the predicted class, index in the dataset, name, both labels."""

    score: float
    index: int
    name: str
    truth: int
    prediction: int


@dataclass
class Observed:
    """What the page needs of the images.

    evaluation: accuracy and confusion, as of `wsdan eval`. raw_correct: (N,) int64, images of each
    class that the raw view alone gets right. corrected, spoiled: images that are right only with,
    and only without, the refined view. areas, overlaps: (BOX_BINS,) int64, boxes by their share
    of the image, and by their IoU with a known box. overlap: sum of the IoUs. worst: confident
    errors, most confident first. pairs: examples by (truth, prediction). recognised: by class, its
    most confident right image.
    """

    classes: int
    evaluation: Evaluation | None = None
    corrected: int = 0
    spoiled: int = 0
    overlap: float = 0.0
    worst: list[Example] = field(default_factory=list)
    pairs: dict[tuple[int, int], list[Example]] = field(default_factory=dict)
    recognised: dict[int, Example] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.raw_correct = torch.zeros(self.classes, dtype=torch.int64)
        self.areas = torch.zeros(BOX_BINS, dtype=torch.int64)
        self.overlaps = torch.zeros(BOX_BINS, dtype=torch.int64)


@torch.no_grad()
def observe(
    model: nn.Module,
    batches: Iterable[Batch],
    config: Config,
    device: torch.device,
    classes: int,
) -> Observed:
    """Evaluate the model, in eval mode, on all batches, in this process.

    Raises UserError for an unreadable image without skip_bad_images, NoImagesError for no image.
    """
    metrics, found = ClassificationMetrics(VIEWS, classes, device), Observed(classes)
    for batch in batches:
        metrics.bad += count_bad(batch, config)
        if len(batch.labels) == 0:
            continue
        images, large = batch.inputs(config, device, input_dtype(model))
        prediction = predict_views(model, images, config, large)
        scores = {view: getattr(prediction, view) for view in VIEWS}
        metrics.update(scores, prediction.final, batch.labels.to(device))
        _add_scores(found, prediction, batch)
        if prediction.boxes is not None:
            metrics.update_boxes(prediction.boxes, batch.boxes.to(device), images.shape[2:])
            _add_boxes(found, prediction.boxes.cpu(), batch.boxes, images.shape[2:])
    found.evaluation = metrics.compute()
    if found.evaluation.metrics["images"] == 0:
        raise NoImagesError("no readable image to evaluate on")
    found.worst.sort(reverse=True)
    return found


def _add_scores(found: Observed, prediction: Prediction, batch: Batch) -> None:
    """Count a batch by its raw and final scores; one that is not finite is no example."""
    raw, final = prediction.raw.float().cpu(), prediction.final.float().cpu()
    labels = batch.labels
    scores, predicted = final.max(dim=1)
    is_finite = final.isfinite().all(dim=1)
    right = (predicted == labels) & is_finite
    raw_right = (raw.argmax(dim=1) == labels) & raw.isfinite().all(dim=1)
    found.raw_correct += torch.bincount(labels[raw_right], minlength=found.classes)
    found.corrected += int((right & ~raw_right).sum())
    found.spoiled += int((raw_right & ~right).sum())
    for i in is_finite.nonzero().flatten().tolist():
        labels_of = int(labels[i]), int(predicted[i])
        example = Example(float(scores[i]), batch.indices[i], batch.names[i], *labels_of)
        _add_example(found, example)


def _add_example(found: Observed, example: Example) -> None:
    if example.truth == example.prediction:
        best = found.recognised.get(example.truth)
        if best is None or example > best:
            found.recognised[example.truth] = example
        return
    _push(found.worst, example, WORST)
    _push(found.pairs.setdefault((example.truth, example.prediction), []), example, PER_PAIR)


def _push(heap: list[Example], example: Example, most: int) -> None:
    """Add to a heap of the `most` most confident examples."""
    (heapq.heappush if len(heap) < most else heapq.heappushpop)(heap, example)


def _add_boxes(found: Observed, boxes: Tensor, known: Tensor, size: tuple[int, int]) -> None:
    """Count boxes (B,4) by area and, where the known ones are no NaN, by IoU."""
    areas = (boxes[:, 2:] - boxes[:, :2]).double().prod(dim=1) / (size[0] * size[1])
    found.areas += _histogram(areas)
    overlaps = iou(boxes, known)[known.isfinite().all(dim=1)].nan_to_num(0.0)
    found.overlap += float(overlaps.sum())
    found.overlaps += _histogram(overlaps)


def _histogram(values: Tensor) -> Tensor:
    """Counts (BOX_BINS,) int64 of values in [0,1]; 1 is in the last bin."""
    bins = (values * BOX_BINS).long().clamp(0, BOX_BINS - 1)
    return torch.bincount(bins, minlength=BOX_BINS)
