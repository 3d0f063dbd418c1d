"""The counts of an evaluation, kept on the device and summed over the ranks at the end."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from wsdan.distributed import sum_over_ranks

FOUND = 0.5  # intersection over union from which a box counts as that of the object


class Evaluation(NamedTuple):
    """What an evaluation found.

    metrics: top-1 accuracy in percent by view ("raw", and "refined", "mean", "tta" where there are
        such views), the same with "_top5" appended; "images", the number counted, and "bad", the
        number skipped; where boxes are known, their number "boxes" and the percentage "localised"
        that the refined view found; "undecided", the images whose final score is not finite,
        where there are any: they count as wrong.
    confusion: (N,N) int64 on the CPU: images by class (row) and final prediction (column).
    images: (N,) int64 on the CPU: images by class, undecided ones included.
    """

    metrics: dict[str, float]
    confusion: Tensor
    images: Tensor

    @property
    def per_class(self) -> Tensor:
        """(N,) float64: top-1 accuracy in percent of each class, NaN where it has no image."""
        return 100 * self.confusion.diagonal().double() / self.images


class ClassificationMetrics:
    """Counts right answers and boxes without waiting for the device.

    Args:
        views: names of the views. num_classes: N.
    """

    def __init__(self, views: Iterable[str], num_classes: int, device: torch.device):
        self.bad = 0
        self._views = list(views)
        self._seen = dict.fromkeys(self._views, 0)
        self._right = {
            view: torch.zeros(2, dtype=torch.int64, device=device) for view in self._views
        }
        # The last column holds the undecided images.
        self._confusion = torch.zeros(
            (num_classes, num_classes + 1), dtype=torch.int64, device=device
        )
        self._boxes = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, scores: dict[str, Tensor | None], final: Tensor, labels: Tensor) -> None:
        """Count a batch: scores and final (B,N), labels (B,) int64, all on the device."""
        for view, values in scores.items():
            if values is not None:
                self._seen[view] += len(labels)
                self._right[view] += _right(values, labels)
        undecided = self._confusion.shape[1] - 1
        predicted = final.argmax(dim=1).where(final.isfinite().all(dim=1), undecided)
        cells = labels * self._confusion.shape[1] + predicted
        self._confusion.view(-1).index_add_(0, cells, torch.ones_like(cells))

    def add_boxes(self, predicted: Tensor, known: Tensor) -> None:
        """Count the boxes of a batch, both (B,4), x1 y1 x2 y2; NaN rows of `known` are left out."""
        is_known = known.isfinite().all(dim=1)
        found = (iou(predicted, known) >= FOUND) & is_known
        self._boxes += torch.stack((is_known.sum(), found.sum()))

    def compute(self) -> Evaluation:
        """The result over the images of all ranks, each of which must call this."""
        device = self._confusion.device
        numbers = torch.tensor([self.bad, *self._seen.values()], device=device)
        bad, *seen = sum_over_ranks(numbers).tolist()
        right = sum_over_ranks(torch.stack([self._right[view] for view in self._views])).tolist()
        confusion = sum_over_ranks(self._confusion).cpu()
        boxes, found = sum_over_ranks(self._boxes).tolist()
        metrics: dict[str, float] = {}
        for view, count, (top_1, top_5) in zip(self._views, seen, right, strict=True):
            if count > 0:
                metrics[view] = 100 * top_1 / count
                metrics[f"{view}_top5"] = 100 * top_5 / count
        metrics |= {"images": int(confusion.sum()), "bad": bad}
        if boxes > 0:
            metrics |= {"boxes": boxes, "localised": 100 * found / boxes}
        undecided = int(confusion[:, -1].sum())
        if undecided > 0:
            metrics["undecided"] = undecided
        return Evaluation(metrics, confusion[:, :-1], confusion.sum(dim=1))


def _right(scores: Tensor, labels: Tensor) -> Tensor:
    """scores (B,N), labels (B,) -> (2,) int64: the images right at the first, in five guesses.

    An image with a score that is not finite is wrong, wherever a sort would put it.
    """
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    best &= scores.isfinite().all(dim=1)[:, None]
    return torch.stack((best[:, 0].sum(), best.any(dim=1).sum()))


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (B,4), x1 y1 x2 y2 -> (B,) float32; NaN where one is."""
    first, second = first.float(), second.float()
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    both = (high - low).clamp(min=0).prod(dim=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(dim=1) for box in (first, second)]
    return both / (areas[0] + areas[1] - both)
