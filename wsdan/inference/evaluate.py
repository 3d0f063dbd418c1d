"""Evaluation: the raw and the refined view, their mean, and test-time augmentation.

The final score is the mean of the views' class probabilities or of their logits (`--final`).
Published codes differ: the official TensorFlow code and WS_DAN_PyTorch average probabilities,
WS-DAN.PyTorch and CAL average logits.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan.config import Config
from wsdan.data.loaders import Batch
from wsdan.data.zoom import Large, crop
from wsdan.errors import UserError
from wsdan.inference.metrics import BINS, ClassificationMetrics, Evaluation
from wsdan.inference.refinement import object_maps, raised
from wsdan.networks.model import unwrapped
from wsdan.precision import autocast, input_dtype
from wsdan.remote.errors import RemoteError
from wsdan_kernels import attention_boxes

VIEWS = {
    "raw": "raw view",
    "refined": "refined view",
    "mean": "mean of both",
    "tta": "test-time views",
}
# Crops of --tta: added to the threshold and padding of the refined view. With the published 0.1 and
# 0.05 they have CAL's thresholds 0.2 and 0.3, and its padding 0.1.
TTA_CROPS = ((0.1, 0.05), (0.2, 0.05))


class NoImagesError(UserError):
    """There was no image to evaluate on, in any rank."""


class Prediction(NamedTuple):
    """Class probabilities (B,N) float32 of each view of a batch, boxes of the objects (B,4) int32,
    and the attention maps (B,M,h,w) of the raw view.

    For a plain classifier, all but raw and tta are None; with --views raw, refined and mean are.
    tta is None without --tta.
    """

    raw: Tensor
    refined: Tensor | None
    mean: Tensor | None
    tta: Tensor | None
    boxes: Tensor | None
    attentions: Tensor | None

    @property
    def final(self) -> Tensor:
        """The final score (B,N): the mean, or the raw view where it is the only one."""
        return self.raw if self.mean is None else self.mean


class WrongImage(NamedTuple):
    """An image whose final score names another class than its own.

    path: of the image. truth, prediction: labels; the prediction is -1 where a score is not finite.
    scores: N probabilities.
    """

    path: str
    truth: int
    prediction: int
    scores: list[float]


@torch.no_grad()
def predict_views(
    model: nn.Module, images: Tensor, config: Config, large: Large | None = None
) -> Prediction:
    """Class probabilities of images (B,3,H,W): of the raw view, and of the refined view, which is
    a crop around the object that the mean attention map shows.

    With config.tta also of two tighter crops, and of all these views of the horizontally flipped
    image. For a plain classifier, and where config.views is "raw", the raw view is the only one,
    and tta is the image and its horizontal flip. The network runs once per view. large: the images
    at a higher resolution, which the crops are then cut out of.
    """
    with autocast(config, images.device):
        logits, boxes, attentions = _view_logits(model, images, config, large)
        flipped = []
        if config.tta:
            mirrored = None if large is None else large.flipped()
            flipped = _view_logits(model, images.flip(3), config, mirrored)[0]
    raw = F.softmax(logits[0], dim=1)
    refined = F.softmax(logits[1], dim=1) if len(logits) > 1 else None
    mean = _mean(logits[:2], config.final) if len(logits) > 1 else None
    tta = _mean(logits + flipped, config.final) if config.tta else None
    return Prediction(raw, refined, mean, tta, boxes, attentions)


@torch.no_grad()
def pooled_features(model: nn.Module, images: Tensor, config: Config) -> Tensor:
    """The pooled features (B,M*C) float32 of the raw view of images (B,3,H,W); (B,C) of a plain
    classifier."""
    with autocast(config, images.device):
        pooled: Tensor = model(images).pooled
    return pooled.float()


def _view_logits(
    model: nn.Module, images: Tensor, config: Config, large: Large | None
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """Logits (B,N) float32 of the raw view, the refined view and, with tta, the tighter crops; the
    boxes of the refined view; the maps of the raw view. For a plain classifier, None for both. Of
    the raw view alone where config.views is "raw"."""
    raw = model(images)
    if raw.attentions is None:
        return [raw.logits.float()], None, None
    maps, threshold = object_maps(raw.attentions, config)
    padding = config.refine_padding
    if config.views == "raw":
        boxes = attention_boxes(maps, images.shape[2:], threshold=threshold, padding=padding)
        return [raw.logits.float()], boxes, raw.attentions
    views, boxes = crop(images, maps, threshold=threshold, padding=padding, large=large)
    logits = [raw.logits.float(), model(views).logits.float()]
    for extra_threshold, extra_padding in TTA_CROPS if config.tta else ():
        views, _ = crop(
            images,
            maps,
            threshold=raised(threshold, extra_threshold),
            padding=padding + extra_padding,
            large=large,
        )
        logits.append(model(views).logits.float())
    return logits, boxes, raw.attentions


def _mean(logits: list[Tensor], final: str) -> Tensor:
    """The mean of the views' probabilities, or the probabilities of their mean logits (B,N)."""
    stacked = torch.stack(logits)
    if final == "logits":
        return F.softmax(stacked.mean(dim=0), dim=1)
    return F.softmax(stacked, dim=2).mean(dim=0)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    config: Config,
    device: torch.device,
    wrong: list[WrongImage] | None = None,
    log: Callable[[Prediction, Batch], None] | None = None,
) -> Evaluation:
    """Evaluate the model on all batches.

    Under torchrun each rank evaluates its own batches; the metrics are reduced at the end, so all
    ranks return the same result. There is no device synchronization per batch.

    Args:
        model: a WSDAN or PlainClassifier, of any precision, perhaps in torch's wrappers.
        wrong: to which the wrong images are added. log: called with each batch and its predictions,
            a PredictionLog for instance; it may wait for the device.

    Raises:
        UserError: an unreadable image without skip_bad_images.
        NoImagesError: no readable image in any rank.
    """
    was_training = model.training
    model.eval()
    dtype = input_dtype(model)
    metrics = ClassificationMetrics(VIEWS, unwrapped(model).classifier.out_features, device)
    for batch in batches:
        metrics.bad += count_bad(batch, config)
        if len(batch.labels) == 0:
            continue
        images, large = batch.inputs(config, device, dtype)
        prediction = predict_views(model, images, config, large)
        metrics.update(
            {view: getattr(prediction, view) for view in VIEWS},
            prediction.final,
            batch.labels.to(device, non_blocking=True),
        )
        if log is not None:
            log(prediction, batch)
        if wrong is not None:
            wrong += _wrong_images(prediction.final, batch)
        if prediction.boxes is not None:
            known = batch.boxes.to(device, non_blocking=True)
            metrics.update_boxes(prediction.boxes, known, images.shape[2:])
    model.train(was_training)
    result = metrics.compute()
    if result.metrics["images"] == 0:
        raise NoImagesError("no readable image to evaluate on")
    return result


def _wrong_images(scores: Tensor, batch: Batch) -> list[WrongImage]:
    """The images of a batch whose final scores (B,N) name another class, or are not finite."""
    scores = scores.float().cpu()
    predicted = scores.argmax(dim=1).where(scores.isfinite().all(dim=1), -1)
    return [
        WrongImage(batch.names[i], int(batch.labels[i]), int(predicted[i]), scores[i].tolist())
        for i in (predicted != batch.labels).nonzero().flatten().tolist()
    ]


def count_bad(batch: Batch, config: Config) -> int:
    """The number of unreadable images in a batch. Raises UserError without skip_bad_images, and
    RemoteError where images could not be fetched, which are not bad."""
    if batch.failure is not None:
        raise RemoteError(batch.failure)
    if batch.bad and not config.skip_bad_images:
        raise UserError(f"{batch.bad[0]} (--skip-bad-images counts such files and goes on)")
    return len(batch.bad)


def final_accuracy(metrics: dict[str, float]) -> float:
    """Top-1 accuracy of the final score: of the mean, or of the raw view if it is the only one."""
    return metrics.get("mean", metrics["raw"])


def accuracy_table(metrics: dict[str, float]) -> str:
    """A table of the accuracy of each view, for the terminal."""
    shown = {view: name for view, name in VIEWS.items() if view in metrics}
    width = max(13, *(len(name) for name in shown.values()))
    lines = [f"{'view':<{width}}  top-1    top-5"]
    for view, name in shown.items():
        top_1, top_5 = metrics[view], metrics[f"{view}_top5"]
        lines.append(f"{name:<{width}} {top_1:5.1f} %  {top_5:5.1f} %")
    lines.append(f"on {metrics['images']} images" + _skipped_text(metrics))
    if "refined" in metrics:
        lines.append(_refined_text(metrics))
    if "ece" in metrics:
        lines.append(_calibration_text(metrics))
    if "localised" in metrics:
        share, boxes = metrics["localised"], metrics["boxes"]
        lines.append(f"object found (IoU >= 0.5): {share:.1f} % of {boxes} known boxes")
    return "\n".join(lines)


def _refined_text(metrics: dict[str, float]) -> str:
    """What the second look saw; a box of the whole image shows the network nothing new."""
    whole, images = metrics["refined_whole"], metrics["images"]
    text = f"refined view: box covers the whole image in {whole} of {images}, "
    text += f"{metrics['refined_area']:.0f} % of its area on average"
    return text + ("; try a larger --refine-threshold" if 2 * whole > images else "")


def _calibration_text(metrics: dict[str, float]) -> str:
    """How far scores are from the share of correct predictions that they stand for."""
    text = f"calibration: mean score {metrics['confidence']:.1f} %, expected calibration error "
    return f"{text}{metrics['ece']:.1f} % ({BINS} bins)"


def _skipped_text(metrics: dict[str, float]) -> str:
    text = f", {metrics['bad']} unreadable skipped" if metrics["bad"] else ""
    if "undecided" in metrics:
        text += f"; the scores of {metrics['undecided']} are not finite"
    return text
