"""Evaluation: the raw and the refined view, their mean, and test-time views.

The final score is the mean of the views' class probabilities or of their logits (`--final`), for
published codes do both: probabilities in the official TensorFlow code and in WS_DAN_PyTorch, logits
in WS-DAN.PyTorch and in CAL.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan.config import Config
from wsdan.data.loaders import Batch
from wsdan.errors import UserError
from wsdan.inference.metrics import ClassificationMetrics, Evaluation
from wsdan.precision import autocast
from wsdan_kernels import attention_refine

VIEWS = {
    "raw": "raw view",
    "refined": "refined view",
    "mean": "mean of both",
    "tta": "test-time views",
}
# Threshold and padding of the test-time crops above those of the refined view: with the published
# 0.1 and 0.05 they are CAL's 0.2 and 0.3, padded by 0.1.
CLOSER = ((0.1, 0.05), (0.2, 0.05))


class NoImagesError(UserError):
    """There was no image to evaluate on, in any process."""


class Prediction(NamedTuple):
    """Class probabilities (B,N) of the views of a batch, and the object's boxes (B,4) int32.

    A plain classifier has the raw view only: refined, mean and boxes are None. tta is None unless
    the configuration asks for it.
    """

    raw: Tensor
    refined: Tensor | None
    mean: Tensor | None
    tta: Tensor | None
    boxes: Tensor | None

    @property
    def final(self) -> Tensor:
        """The score that a model is judged by: the mean, or the raw view where it is alone."""
        return self.raw if self.mean is None else self.mean


@torch.no_grad()
def predict_views(model: nn.Module, images: Tensor, config: Config) -> Prediction:
    """images (B,3,H,W) -> probabilities: look, locate the object, zoom in and look again.

    With config.tta also at two closer crops and, like all of these, in the mirror; a plain
    classifier has the image and its mirror image. One pass of the network a view.
    """
    with autocast(config, images.device):
        logits, boxes = _look(model, images, config)
        mirrored = _look(model, images.flip(3), config)[0] if config.tta else []
    raw = F.softmax(logits[0], dim=1)
    refined = F.softmax(logits[1], dim=1) if boxes is not None else None
    mean = _mean(logits[:2], config.final) if boxes is not None else None
    tta = _mean(logits + mirrored, config.final) if config.tta else None
    return Prediction(raw, refined, mean, tta, boxes)


def _look(model: nn.Module, images: Tensor, config: Config) -> tuple[list[Tensor], Tensor | None]:
    """The logits (B,N) float32 of the raw, the refined and, for tta, the closer views, and the
    refined view's boxes; for a plain classifier of the raw view, and None."""
    raw = model(images)
    if raw.attentions is None:
        return [raw.logits.float()], None
    threshold, padding = config.refine_threshold, config.refine_padding
    views, boxes = attention_refine(images, raw.attentions, threshold=threshold, padding=padding)
    logits = [raw.logits.float(), model(views).logits.float()]
    for higher, wider in CLOSER if config.tta else ():
        views, _ = attention_refine(
            images,
            raw.attentions,
            threshold=min(threshold + higher, 1.0),
            padding=padding + wider,
        )
        logits.append(model(views).logits.float())
    return logits, boxes


def _mean(logits: list[Tensor], final: str) -> Tensor:
    """The mean of the views' probabilities, or the probabilities of their mean logits (B,N)."""
    stacked = torch.stack(logits)
    if final == "logits":
        return F.softmax(stacked.mean(dim=0), dim=1)
    return F.softmax(stacked, dim=2).mean(dim=0)


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], config: Config, device: torch.device
) -> Evaluation:
    """Score the model on all batches; under torchrun each rank brings its own images.

    No batch waits for the device, and the counts of the ranks are summed at the end, so every rank
    returns the same.

    Args:
        model: with `classifier`, whose out_features are the N classes.

    Raises:
        UserError: an unreadable image without skip_bad_images.
        NoImagesError: no image at all.
    """
    was_training = model.training
    model.eval()
    counts = ClassificationMetrics(VIEWS, model.classifier.out_features, device)
    for batch in batches:
        counts.bad += count_bad(batch, config)
        if len(batch.labels) == 0:
            continue
        images = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
        prediction = predict_views(model, images, config)
        counts.add(
            {view: getattr(prediction, view) for view in VIEWS},
            prediction.final,
            batch.labels.to(device, non_blocking=True),
        )
        if prediction.boxes is not None:
            counts.add_boxes(prediction.boxes, batch.boxes.to(device, non_blocking=True))
    model.train(was_training)
    result = counts.compute()
    if result.metrics["images"] == 0:
        raise NoImagesError("no readable image to evaluate on")
    return result


def count_bad(batch: Batch, config: Config) -> int:
    """The number of unreadable images of a batch; raises UserError unless they may be skipped."""
    if batch.bad and not config.skip_bad_images:
        raise UserError(f"{batch.bad[0]} (--skip-bad-images counts such files and goes on)")
    return len(batch.bad)


def final_accuracy(metrics: dict[str, float]) -> float:
    """The accuracy a run is judged by: that of the mean, or of the raw view where it is alone."""
    return metrics.get("mean", metrics["raw"])


def accuracy_table(metrics: dict[str, float]) -> str:
    """A short table of the views' accuracy for the terminal."""
    shown = {view: name for view, name in VIEWS.items() if view in metrics}
    width = max(13, *(len(name) for name in shown.values()))
    lines = [f"{'view':<{width}}  top-1    top-5"]
    for view, name in shown.items():
        top_1, top_5 = metrics[view], metrics[f"{view}_top5"]
        lines.append(f"{name:<{width}} {top_1:5.1f} %  {top_5:5.1f} %")
    lines.append(f"on {metrics['images']} images" + _left_out(metrics))
    if "localised" in metrics:
        share, boxes = metrics["localised"], metrics["boxes"]
        lines.append(f"object found (IoU >= 0.5): {share:.1f} % of {boxes} known boxes")
    return "\n".join(lines)


def _left_out(metrics: dict[str, float]) -> str:
    text = f", {metrics['bad']} unreadable skipped" if metrics["bad"] else ""
    if "undecided" in metrics:
        text += f"; the scores of {metrics['undecided']} are not finite"
    return text
