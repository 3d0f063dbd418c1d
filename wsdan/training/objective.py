"""The objectives that a training step minimises: functions from a batch to its losses and views."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from wsdan.constants import CROP_PADDING, CROP_THRESHOLD, DROP_THRESHOLD
from wsdan.distributed import gather_rows
from wsdan.networks.model import unwrapped, unwrapping
from wsdan.profiling import NO_PROFILER, Profiler
from wsdan_kernels import attention_crop_drop, sample_attention


def wsdan_objective(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    center_weight: float = 1.0,
    label_smoothing: float = 0.0,
    joint_views: bool = False,
    counterfactual: float = 0.0,
    move_centers: bool = True,
    uniforms: Tensor | None = None,
    generator: torch.Generator | None = None,
    profiler: Profiler = NO_PROFILER,
) -> dict[str, Tensor]:
    """The WS-DAN objective: three cross-entropies and the center loss; updates the centers.

    loss = (CE(raw) + CE(crop) + CE(drop)) / 3 + center_weight * center loss of the raw view. The
    crop and the drop view each use one attention map of the raw view, sampled by its mass.
    `counterfactual` is the weight of one more term: the cross-entropy, over the three views, of
    the attention maps' effect on the logits (CAL, arXiv:2108.08728, where the weight is 1).

    In a process group every process updates its centers from the images of all, to equal values;
    all need the same B. In evaluation mode, and without gradients, no center moves.

    Args:
        model: a WSDAN, or one that DistributedDataParallel, DataParallel, AveragedModel,
            torch.compile or fully_shard has wrapped.
        images: (B,3,H,W) floating point, of the model's dtype unless under autocast.
        labels: (B,) int64.
        label_smoothing: in [0,1), of the cross-entropies.
        joint_views: pass both views through the model as one batch of 2 B images; batch norm then
            computes its statistics over both.
        counterfactual: >= 0; above 0 the model must return the effect of its maps, see `WSDAN`.
        move_centers: False leaves the centers' update to the caller, from "pooled".
        uniforms: (B,4) in [0,1): the random numbers of the views, see `training_views`.
        generator: on the images' device; draws `uniforms` if they are not given, and the random
            maps that the effect is measured against.
        profiler: times the phase "views".

    Returns:
        "loss"; its terms "raw", "crop", "drop", "center" and, if weighted, "counterfactual";
        "logits" (B,N) and "pooled" (B,M*C) of the raw view; "crops" and "drops" (B,3,H,W).
    """
    options = {"counterfactual": True, "generator": generator} if counterfactual > 0 else {}
    raw = model(images, **options)
    inner = unwrapped(model)
    center = inner.centers(raw.pooled, labels)
    if move_centers and inner.training and torch.is_grad_enabled():
        inner.centers.update_(gather_rows(raw.pooled), gather_rows(labels))
    with profiler("views"):
        crops, drops = training_views(images, raw.attentions.detach(), uniforms, generator)
    batches = [torch.cat([crops, drops])] if joint_views else [crops, drops]
    with _buffers_kept(model):
        outputs = [raw, *(model(views, **options) for views in batches)]
    logits = torch.cat([output.logits for output in outputs]).float()
    terms = {
        name: F.cross_entropy(scores, labels, label_smoothing=label_smoothing)
        for name, scores in zip(("raw", "crop", "drop"), logits.chunk(3), strict=True)
    }
    loss = (terms["raw"] + terms["crop"] + terms["drop"]) / 3 + center_weight * center
    if counterfactual > 0:
        effects = torch.cat([output.effect for output in outputs]).float()
        terms["counterfactual"] = F.cross_entropy(
            effects, labels.repeat(3), label_smoothing=label_smoothing
        )
        loss = loss + counterfactual * terms["counterfactual"]
    views = {"logits": raw.logits, "pooled": raw.pooled, "crops": crops, "drops": drops}
    return {"loss": loss, **terms, "center": center, **views}


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Within it DistributedDataParallel does not overwrite the buffers with those of rank 0: the
    backward of the raw view has batch norm's statistics saved."""
    broadcasting = [
        wrapper
        for wrapper in unwrapping(model)
        if isinstance(wrapper, DistributedDataParallel) and wrapper.broadcast_buffers
    ]
    for wrapper in broadcasting:
        wrapper.broadcast_buffers = False
    try:
        yield
    finally:
        for wrapper in broadcasting:
            wrapper.broadcast_buffers = True


def baseline_objective(
    model: nn.Module, images: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, **_: object
) -> dict[str, Tensor]:
    """The cross-entropy of a plain classifier: "loss" and "logits" (B,N)."""
    logits = model(images).logits
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    return {"loss": loss, "logits": logits}


OBJECTIVES: dict[str, Callable] = {"wsdan": wsdan_objective, "baseline": baseline_objective}


@torch.no_grad()
def training_views(
    images: Tensor,
    attentions: Tensor,
    uniforms: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """images (B,3,H,W), attentions (B,M,h,w) -> crops and drops, each (B,3,H,W).

    uniforms: (B,4) in [0,1), drawn if not given: for the map to crop by, the map to drop by, the
    crop's threshold and the drop's threshold.
    """
    if uniforms is None:
        shape = (images.shape[0], 4)
        # Not torch.rand: torch.compile traces it with a generator only for a fixed batch size.
        uniforms = torch.empty(shape, device=images.device).uniform_(generator=generator)
    picks = sample_attention(attentions, 2, uniforms=uniforms[:, :2])
    rows = torch.arange(images.shape[0], device=images.device)
    return attention_crop_drop(
        images,
        attentions[rows, picks[:, 0]],
        attentions[rows, picks[:, 1]],
        crop_threshold=_scaled(uniforms[:, 2], CROP_THRESHOLD),
        drop_threshold=_scaled(uniforms[:, 3], DROP_THRESHOLD),
        padding=CROP_PADDING,
    )


def _scaled(uniforms: Tensor, limits: tuple[float, float]) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * uniforms
