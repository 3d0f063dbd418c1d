"""The calibration of the final scores, against a plain loop over the images."""

import json

import pytest
import torch

from wsdan.inference.evaluate import accuracy_table
from wsdan.inference.metrics import BINS, ClassificationMetrics, calibration_error
from wsdan.inference.reports import evaluation_json

CPU = torch.device("cpu")


def evaluation(scores: torch.Tensor, labels: torch.Tensor, batch: int = 7):
    """The evaluation of final scores (B,N), in batches."""
    metrics = ClassificationMetrics(["raw"], scores.shape[1], CPU)
    for part, truth in zip(scores.split(batch), labels.split(batch), strict=True):
        metrics.update({"raw": part}, part, truth)
    return metrics.compute()


def by_hand(scores: torch.Tensor, labels: torch.Tensor) -> tuple[list, float]:
    """Score and correctness of the images of each bin, and the expected calibration error."""
    bins = [[] for _ in range(BINS)]
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        top = max(row)
        bins[min(int(top * BINS), BINS - 1)].append((top, row.index(top) == label))
    error = sum(abs(sum(score - correct for score, correct in bin)) for bin in bins)
    return bins, error / len(labels)


def test_bins_and_error_by_hand():
    generator = torch.Generator().manual_seed(0)
    scores = (3 * torch.randn((200, 4), generator=generator)).softmax(dim=1)
    scores[0] = torch.tensor([1.0, 0, 0, 0])  # the end of the last bin
    labels = torch.randint(4, (200,), generator=generator)
    result = evaluation(scores, labels)
    bins, error = by_hand(scores, labels)
    for (images, score, accuracy), expected in zip(result.calibration.tolist(), bins, strict=True):
        assert images == len(expected)
        if expected:
            assert score == pytest.approx(sum(x for x, _ in expected) / images, abs=1e-8)
            assert accuracy == pytest.approx(sum(x for _, x in expected) / images)
    assert sum(map(bool, bins)) > 8 and not bins[0]  # bins with images and without
    assert result.metrics["ece"] == pytest.approx(100 * error, abs=1e-6)
    assert result.metrics["confidence"] == pytest.approx(
        100 * float(scores.amax(dim=1).mean()), abs=1e-4
    )
    found = 100 * error
    assert f"expected calibration error {found:.1f} % (15 bins)" in accuracy_table(result.metrics)


def test_the_order_of_the_images_changes_no_bit():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn((300, 3), generator=generator).softmax(dim=1)
    labels = torch.randint(3, (300,), generator=generator)
    order = torch.randperm(300, generator=generator)
    one, other = evaluation(scores, labels), evaluation(scores[order], labels[order], batch=50)
    assert one.metrics == other.metrics
    assert torch.equal(one.calibration.nan_to_num(), other.calibration.nan_to_num())


def test_scores_that_are_not_finite_are_in_no_bin():
    scores = torch.tensor([[0.9, 0.1], [torch.nan, torch.nan], [torch.inf, 0.0]])
    result = evaluation(scores, torch.tensor([1, 0, 0]))
    assert result.calibration[:, 0].tolist() == [0.0] * 13 + [1.0, 0.0]
    assert calibration_error(result.calibration) == pytest.approx(0.9)
    entry = json.loads(evaluation_json(result, ["a", "b"]))["calibration"]
    assert entry[13] == {"images": 1, "score": pytest.approx(0.9), "accuracy": 0.0}
    assert entry[0] == {"images": 0, "score": None, "accuracy": None}
    undecided = evaluation(scores[1:], torch.tensor([0, 0]))
    assert not {"ece", "confidence"} & set(undecided.metrics)
    assert "calibration" not in accuracy_table(undecided.metrics)
