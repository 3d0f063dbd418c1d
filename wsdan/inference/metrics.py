"""Classification metrics, accumulated on the device and reduced over all ranks at the end."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from wsdan.distributed import sum_over_ranks

IOU_THRESHOLD = 0.5  # a predicted box with at least this IoU counts as correct
BINS = 15  # of the calibration, of equal width in [0,1]
_STEPS = 2**30  # of a score: sums of whole steps are equal in every order of the images and ranks


class Evaluation(NamedTuple):
    """The result of an evaluation.

    metrics: top-1 accuracy in percent of each view ("raw", and "refined", "mean", "tta" if the
        model has them), and top-5 accuracy as VIEW_top5; "images", the number of images, and "bad",
        the number of unreadable ones. Of the final scores that are finite: "confidence", the mean
        score of the predicted class, and "ece", the expected calibration error, both in percent. If
        boxes are known: their number "boxes", and "localised", the percentage of them with an IoU
        of at least 0.5. Of a WSDAN: "refined_whole", the number of
        images whose box is the whole image, and "refined_area", the boxes' mean share of the image
        in percent. If any: "undecided", the number of
        images whose final score is not finite, which count as wrong.
    confusion: (N,N) int64 on the CPU: images by class (row) and final prediction (column).
    images: (N,) int64 on the CPU: number of images by class, undecided ones included.
    calibration: (BINS,3) float64 on the CPU, by bin of the predicted class's final score: number of
        images, mean score in [0,1] and the share of correct predictions; NaN in an empty bin.
    """

    metrics: dict[str, float]
    confusion: Tensor
    images: Tensor
    calibration: Tensor

    @property
    def per_class(self) -> Tensor:
        """(N,) float64: top-1 accuracy of each class in percent, NaN for a class without images."""
        return 100 * self.confusion.diagonal().double() / self.images


class ClassificationMetrics:
    """Accuracies, confusion matrix and localisation, updated without device synchronization.

    `bad` counts unreadable images; the caller adds to it.

    Args:
        views: names of the views. num_classes: N. device: of the scores and labels.
    """

    def __init__(self, views: Iterable[str], num_classes: int, device: torch.device):
        self.bad = 0
        self._views = list(views)
        self._seen = dict.fromkeys(self._views, 0)
        self._correct = {
            view: torch.zeros(2, dtype=torch.int64, device=device) for view in self._views
        }
        # The last column holds the undecided images.
        self._confusion = torch.zeros(
            (num_classes, num_classes + 1), dtype=torch.int64, device=device
        )
        # Images, correct ones and steps of their scores; the last bin holds the undecided images.
        self._bins = torch.zeros((BINS + 1, 3), dtype=torch.int64, device=device)
        # Known boxes, those of them that were found, boxes of the whole image, their sum of pixels.
        self._boxes = torch.zeros(4, dtype=torch.int64, device=device)
        self._pixels = 0  # of all images that have a box

    def update(self, scores: dict[str, Tensor | None], final: Tensor, labels: Tensor) -> None:
        """Add a batch: scores by view and final scores (B,N), labels (B,) int64, on the device."""
        for view, values in scores.items():
            if values is not None:
                self._seen[view] += len(labels)
                self._correct[view] += _count_correct(values, labels)
        undecided = self._confusion.shape[1] - 1
        finite = final.isfinite().all(dim=1)
        predicted = final.argmax(dim=1).where(finite, undecided)
        cells = labels * self._confusion.shape[1] + predicted
        self._confusion.view(-1).index_add_(0, cells, torch.ones_like(cells))
        scores = final.amax(dim=1).double().where(finite, 0.0)
        bins = (scores * BINS).long().clamp(max=BINS - 1).where(finite, BINS)
        counts = (torch.ones_like(bins), predicted == labels, (scores * _STEPS).round().long())
        self._bins.index_add_(0, bins, torch.stack([count.long() for count in counts], dim=1))

    def update_boxes(self, predicted: Tensor, known: Tensor, size: tuple[int, int]) -> None:
        """Add the boxes (B,4) of a batch, x1 y1 x2 y2, of images of `size` (H,W).

        NaN rows of `known` are ignored.
        """
        pixels = size[0] * size[1]
        is_known = known.isfinite().all(dim=1)
        found = (iou(predicted, known) >= IOU_THRESHOLD) & is_known
        areas = (predicted[:, 2:] - predicted[:, :2]).long().prod(dim=1)
        whole = (areas == pixels).sum()
        self._boxes += torch.stack((is_known.sum(), found.sum(), whole, areas.sum()))
        self._pixels += pixels * len(predicted)

    def compute(self) -> Evaluation:
        """Reduce over all ranks; every rank must call this."""
        device = self._confusion.device
        numbers = torch.tensor([self.bad, self._pixels, *self._seen.values()], device=device)
        bad, pixels, *seen = sum_over_ranks(numbers).tolist()
        correct = sum_over_ranks(
            torch.stack([self._correct[view] for view in self._views])
        ).tolist()
        confusion = sum_over_ranks(self._confusion).cpu()
        calibration = _means(sum_over_ranks(self._bins).cpu()[:-1])
        boxes, found, whole, area = sum_over_ranks(self._boxes).tolist()
        metrics: dict[str, float] = {}
        for view, count, (top_1, top_5) in zip(self._views, seen, correct, strict=True):
            if count > 0:
                metrics[view] = 100 * top_1 / count
                metrics[f"{view}_top5"] = 100 * top_5 / count
        metrics |= {"images": int(confusion.sum()), "bad": bad}
        if calibration[:, 0].any():
            metrics |= {
                "confidence": 100 * mean_confidence(calibration),
                "ece": 100 * calibration_error(calibration),
            }
        if boxes > 0:
            metrics |= {"boxes": boxes, "localised": 100 * found / boxes}
        if pixels > 0:
            metrics |= {"refined_whole": whole, "refined_area": 100 * area / pixels}
        undecided = int(confusion[:, -1].sum())
        if undecided > 0:
            metrics["undecided"] = undecided
        return Evaluation(metrics, confusion[:, :-1], confusion.sum(dim=1), calibration)


def _means(sums: Tensor) -> Tensor:
    """The calibration of sums (BINS,3) int64 of images, correct ones and steps of their scores."""
    images, correct, steps = sums.double().unbind(dim=1)
    return torch.stack((images, steps / _STEPS / images, correct / images), dim=1)


def mean_confidence(calibration: Tensor) -> float:
    """The mean score in [0,1] of all images of a calibration (BINS,3)."""
    images, scores, _ = calibration.unbind(dim=1)
    return float((images * scores).nansum() / images.sum())


def calibration_error(calibration: Tensor) -> float:
    """The expected calibration error (ECE) in [0,1] of a calibration (BINS,3): the difference
    between mean score and accuracy of a bin, averaged over the images."""
    images, scores, correct = calibration.unbind(dim=1)
    return float((images * (scores - correct).abs()).nansum() / images.sum())


def _count_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """scores (B,N), labels (B,) -> (2,) int64: number of images correct in the top 1 and top 5.

    An image with a score that is not finite counts as wrong.
    """
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    best &= scores.isfinite().all(dim=1)[:, None]
    return torch.stack((best[:, 0].sum(), best.any(dim=1).sum()))


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (B,4), x1 y1 x2 y2 -> (B,) float32; NaN if a box has NaN."""
    first, second = first.float(), second.float()
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    both = (high - low).clamp(min=0).prod(dim=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(dim=1) for box in (first, second)]
    return both / (areas[0] + areas[1] - both)
