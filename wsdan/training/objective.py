"""The objectives that a training step minimises: functions from a batch to its losses and views."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from operator import add

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from wsdan.constants import CROP_PADDING, CROP_THRESHOLD, DROP_THRESHOLD, MIX_THRESHOLD
from wsdan.data.zoom import Large, crop, crop_and_drop
from wsdan.distributed import gather_rows
from wsdan.networks.model import unwrapped, unwrapping
from wsdan.profiling import NO_PROFILER, Profiler
from wsdan_kernels import attention_boxes, attention_drop, attention_swap, sample_attention


def wsdan_objective(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    center_weight: float = 1.0,
    label_smoothing: float = 0.0,
    joint_views: bool = False,
    counterfactual: float = 0.0,
    calmix: float = 0.0,
    class_weights: Tensor | None = None,
    views: tuple[str, ...] = ("crop", "drop"),
    move_centers: bool = True,
    uniforms: Tensor | None = None,
    large: Large | None = None,
    generator: torch.Generator | None = None,
    profiler: Profiler = NO_PROFILER,
) -> dict[str, Tensor]:
    """The WS-DAN objective: three cross-entropies and the center loss; updates the centers.

    loss = (CE(raw) + CE(crop) + CE(drop)) / 3 + center_weight * center loss of the raw view. The
    crop and the drop view each use one attention map of the raw view, sampled by its mass.
    `counterfactual` is the weight of one more term: the cross-entropy, over the three views, of
    the attention maps' effect on the logits (CAL, arXiv:2108.08728, where the weight is 1).

    `calmix` is the weight of a fourth view, in which two images of a class exchange the boxes of
    one more map (CALMix, arXiv:2605.18700, where it is 1): its cross-entropies, that of the effect
    included, are multiplied by it and added to the sums over three views, which are still divided
    by 3. Images are paired by their class, see `same_class_partners`.

    In a process group every process updates its centers from the images of all, to equal values;
    all need the same B. In evaluation mode, and without gradients, no center moves.

    Args:
        model: a WSDAN, or one that DistributedDataParallel, DataParallel, AveragedModel,
            torch.compile or fully_shard has wrapped.
        images: (B,3,H,W) floating point, of the model's dtype unless under autocast.
        labels: (B,) int64.
        label_smoothing: in [0,1), of the cross-entropies.
        joint_views: pass the views through the model as one batch of 2 B images, 3 B with calmix;
            batch norm then computes its statistics over all.
        counterfactual: >= 0; above 0 the model must return the effect of its maps, see `WSDAN`.
        calmix: >= 0; above 0 a step passes four views.
        class_weights: (N,) floating point, on the images' device: factors on the cross-entropies
            of the images of each class. Their mean over the training images should be 1.
        views: those passed beside the raw one: "crop" and "drop", one of them, or none. With fewer
            than two, 3 above stands for their number and the raw one.
        move_centers: False leaves the centers' update to the caller, from "pooled".
        uniforms: (B,4) in [0,1): the random numbers of the views, see `training_views`; with
            calmix (B,6), the last two for `mixed_views`.
        large: the images at a higher resolution, which the crops are then cut out of.
        generator: on the images' device; draws `uniforms` if they are not given, and the random
            maps that the effect is measured against.
        profiler: times the phase "views".

    Returns:
        "loss"; its terms "raw", "crop", "drop", "center" and, if weighted, "mix" and
        "counterfactual"; "logits" (B,N) and "pooled" (B,M*C) of the raw view; "crops", "drops" and,
        with calmix, "mixes" (B,3,H,W). A view that is not passed has neither.
    """
    options = {"counterfactual": True, "generator": generator} if counterfactual > 0 else {}
    raw = model(images, **options)
    inner = unwrapped(model)
    center = inner.centers(raw.pooled, labels)
    if move_centers and inner.training and torch.is_grad_enabled():
        inner.centers.update_(gather_rows(raw.pooled), gather_rows(labels))
    count, batches = 1 + len(views), {}
    if views:
        with profiler("views"):
            if uniforms is None:
                uniforms = _drawn(images, 6 if calmix > 0 else 4, generator)
            maps = raw.attentions.detach()
            made = training_views(images, maps, uniforms[:, :4], None, large, views)
            batches = dict(zip(views, made, strict=True))
            if calmix > 0:
                partners = same_class_partners(labels)
                batches["mix"] = mixed_views(images, maps, partners, uniforms[:, 4:])
    passes = list(batches.values())
    if joint_views and passes:
        passes = [torch.cat(passes)]
    with _buffers_kept(model):
        outputs = [raw, *(model(batch, **options) for batch in passes)]
    cross_entropy = partial(
        weighted_cross_entropy, label_smoothing=label_smoothing, class_weights=class_weights
    )
    logits = _widened(torch.cat([output.logits for output in outputs]))
    names = ("raw", *batches)
    terms = {
        name: cross_entropy(scores, labels)
        for name, scores in zip(names, logits.chunk(len(names)), strict=True)
    }
    loss = reduce(add, [terms[name] for name in ("raw", *views)]) / count + center_weight * center
    if "mix" in terms:
        loss = loss + calmix / count * terms["mix"]
    if counterfactual > 0:
        effects = _widened(torch.cat([output.effect for output in outputs]))
        of_views, of_mixes = effects.tensor_split([count * len(labels)])
        terms["counterfactual"] = cross_entropy(of_views, labels.repeat(count))
        if "mix" in terms:
            terms["counterfactual"] = terms["counterfactual"] + calmix / count * cross_entropy(
                of_mixes, labels
            )
        loss = loss + counterfactual * terms["counterfactual"]
    results = {"logits": raw.logits, "pooled": raw.pooled}
    for name, batch in batches.items():
        results["mixes" if name == "mix" else f"{name}s"] = batch
    return {"loss": loss, **terms, "center": center, **results}


def weighted_cross_entropy(
    scores: Tensor, labels: Tensor, label_smoothing: float, class_weights: Tensor | None
) -> Tensor:
    """The mean over scores (B,N) and labels (B,) of torch's cross-entropy, which `class_weights`
    (N,) multiply by class; not torch's weighted mean, so that parts of a batch add up to it."""
    if class_weights is None:
        return F.cross_entropy(scores, labels, label_smoothing=label_smoothing)
    total = F.cross_entropy(
        scores, labels, class_weights, reduction="sum", label_smoothing=label_smoothing
    )
    return total / len(labels)


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
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    **_: object,
) -> dict[str, Tensor]:
    """The cross-entropy of a plain classifier: "loss" and "logits" (B,N)."""
    logits = model(images).logits
    loss = weighted_cross_entropy(_widened(logits), labels, label_smoothing, class_weights)
    return {"loss": loss, "logits": logits}


OBJECTIVES: dict[str, Callable] = {"wsdan": wsdan_objective, "baseline": baseline_objective}


def _drawn(images: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    # Not torch.rand: torch.compile traces it with a generator only for a fixed batch size.
    empty = torch.empty((images.shape[0], count), device=images.device)
    return empty.uniform_(generator=generator)


@torch.no_grad()
def training_views(
    images: Tensor,
    attentions: Tensor,
    uniforms: Tensor | None = None,
    generator: torch.Generator | None = None,
    large: Large | None = None,
    names: tuple[str, ...] = ("crop", "drop"),
) -> tuple[Tensor, ...]:
    """images (B,3,H,W), attentions (B,M,h,w) -> crops and drops, each (B,3,H,W), those of `names`.

    uniforms: (B,4) in [0,1), drawn if not given: for the map to crop by, the map to drop by, the
    crop's threshold and the drop's threshold. large: what the crops are cut from, if not the
    images.
    """
    if uniforms is None:
        uniforms = _drawn(images, 4, generator)
    picks = sample_attention(attentions, 2, uniforms=uniforms[:, :2])
    rows = torch.arange(images.shape[0], device=images.device)
    crop_maps, drop_maps = attentions[rows, picks[:, 0]], attentions[rows, picks[:, 1]]
    crop_threshold = _scaled(uniforms[:, 2], CROP_THRESHOLD)
    drop_threshold = _scaled(uniforms[:, 3], DROP_THRESHOLD)
    how = {"padding": CROP_PADDING, "large": large}
    if names == ("crop",):
        return (crop(images, crop_maps, threshold=crop_threshold, **how)[0],)
    if names == ("drop",):
        return (attention_drop(images, drop_maps, threshold=drop_threshold),)
    thresholds = {"crop_threshold": crop_threshold, "drop_threshold": drop_threshold}
    return crop_and_drop(images, crop_maps, drop_maps, **thresholds, **how)


@torch.no_grad()
def mixed_views(images: Tensor, attentions: Tensor, partners: Tensor, uniforms: Tensor) -> Tensor:
    """CALMix's view (arXiv:2605.18700): each image with, in its box, the contents of its partner's
    box, resized to it.

    The box of an image is that of a map sampled by its mass, above a threshold in [0.6, 0.8) of its
    peak, without padding.

    Args:
        images: (B,3,H,W). attentions: (B,M,h,w). partners: (B,) int64; an image that is its own
            partner stays as it is.
        uniforms: (B,2) in [0,1): for the map and for the threshold.
    """
    picks = sample_attention(attentions, 1, uniforms=uniforms[:, :1])
    rows = torch.arange(images.shape[0], device=images.device)
    boxes = attention_boxes(
        attentions[rows, picks[:, 0]],
        images.shape[2:],
        threshold=_scaled(uniforms[:, 1], MIX_THRESHOLD),
        padding=0.0,
    )
    return attention_swap(images, boxes, partners)


def same_class_partners(labels: Tensor) -> Tensor:
    """labels (B,) -> (B,) int64: the row of each image's partner, an image of its class.

    The last and the last but one image of a class in the batch are a pair, and so on towards its
    first. An image that is left over is its own partner. So the pairs of `in_pairs`, which makes
    the order of an epoch, are the same in a batch, in the ranks' shares of it and in micro-batches.
    """
    same = labels[:, None] == labels
    order = same.triu(1).sum(1)  # of an image among those of its class, from the end
    matches = same & (order[:, None] ^ 1 == order)
    rows = torch.arange(len(labels), device=labels.device)
    return torch.where(matches.any(1), (matches * rows).sum(1), rows)


def _widened(scores: Tensor) -> Tensor:
    """In float32 at least."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _scaled(uniforms: Tensor, limits: tuple[float, float]) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * uniforms
