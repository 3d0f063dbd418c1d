"""Evaluation of the raw view, the refined view and the mean of both (arXiv:1901.09891 3.3)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan.config import Config
from wsdan.data.loaders import Batch
from wsdan.errors import UserError
from wsdan_kernels import attention_refine

VIEWS = ("raw", "refined", "mean")


class Prediction(NamedTuple):
    """Class probabilities (B,N) of the views of a batch, and the object's boxes (B,4) int32.

    A plain classifier has the raw view only: refined, mean and boxes are None.
    """

    raw: Tensor
    refined: Tensor | None
    mean: Tensor | None
    boxes: Tensor | None


@torch.no_grad()
def predict_views(model: nn.Module, images: Tensor, config: Config) -> Prediction:
    """images (B,3,H,W) -> probabilities: look, locate the object, zoom in and look again.

    The final score is the mean of the raw and the refined view's probabilities.
    """
    raw = model(images)
    probabilities = F.softmax(raw.logits.float(), dim=1)
    if raw.attentions is None:
        return Prediction(probabilities, None, None, None)
    views, boxes = attention_refine(
        images,
        raw.attentions,
        threshold=config.refine_threshold,
        padding=config.refine_padding,
    )
    refined = F.softmax(model(views).logits.float(), dim=1)
    return Prediction(probabilities, refined, (probabilities + refined) / 2, boxes)


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], config: Config, device: torch.device
) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent of each view over all batches.

    Returns:
        {"raw": ..., "refined": ..., "mean": ...} (top-1), the same with "_top5" appended,
        "pictures", the number counted, and "bad", the number skipped.

    Raises:
        UserError: an unreadable picture without skip_bad_images, or no picture at all.
    """
    was_training = model.training
    model.eval()
    correct: dict[str, int] = {}
    pictures = bad = 0
    for batch in batches:
        bad += count_bad(batch, config)
        if len(batch.labels) == 0:
            continue
        pictures += len(batch.labels)
        labels = batch.labels.to(device)
        prediction = predict_views(model, batch.images.to(device), config)
        for view in VIEWS:
            scores = getattr(prediction, view)
            if scores is None:
                continue
            best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
            correct[view] = correct.get(view, 0) + int(best[:, 0].sum())
            correct[f"{view}_top5"] = correct.get(f"{view}_top5", 0) + int(best.any(1).sum())
    model.train(was_training)
    if pictures == 0:
        raise UserError("no readable picture to evaluate on")
    accuracy = {view: 100 * count / pictures for view, count in correct.items()}
    return {**accuracy, "pictures": pictures, "bad": bad}


def count_bad(batch: Batch, config: Config) -> int:
    """The number of unreadable pictures of a batch; raises UserError unless they may be skipped."""
    if batch.bad and not config.skip_bad_images:
        raise UserError(f"{batch.bad[0]} (--skip-bad-images counts such files and goes on)")
    return len(batch.bad)


def final_accuracy(metrics: dict[str, float]) -> float:
    """The accuracy a run is judged by: that of the mean, or of the raw view where it is alone."""
    return metrics.get("mean", metrics["raw"])


def accuracy_table(metrics: dict[str, float]) -> str:
    """A short table of the views' accuracy for the terminal."""
    names = dict(zip(VIEWS, ("raw view", "refined view", "mean of both"), strict=True))
    lines = ["view           top-1    top-5"]
    for view, name in names.items():
        if view in metrics:
            lines.append(f"{name:<13} {metrics[view]:5.1f} %  {metrics[view + '_top5']:5.1f} %")
    lines.append(f"on {metrics['pictures']} pictures" + _bad_text(metrics["bad"]))
    return "\n".join(lines)


def _bad_text(bad: float) -> str:
    return f", {bad} unreadable skipped" if bad else ""
