"""What a training step minimises: one function from a batch to its losses and views."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan.constants import CROP_PADDING, CROP_THRESHOLD, DROP_THRESHOLD
from wsdan.distributed import gather_rows
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
    """The WS-DAN objective: three cross-entropies and the center loss; moves the centers.

    loss = (CE(raw) + CE(crop) + CE(drop)) / 3 + center_weight * center loss of the raw view. The
    crop and the drop view are each made by one map of the raw pass, drawn by its mass. Above 0,
    `counterfactual` is the weight of one more term, the cross-entropy of the maps' effect on the
    logits, over the three views (CAL, arXiv:2108.08728, where it is 1). Under torchrun the centers
    move by the images of all processes, alike in each.

    Args:
        model: a WSDAN in training mode. images (B,3,H,W) floating point, labels (B,) int64.
        label_smoothing: in [0,1), of the cross-entropies.
        joint_views: pass both views through the model as one batch of 2 B; batch norm then sees
            them together.
        counterfactual: >= 0; above 0 the model must give the effect of its maps, see `WSDAN`.
        move_centers: False leaves it to the caller, who has "pooled".
        uniforms: (B,4) in [0,1): the random numbers of the views, see `training_views`.
        generator: of the images' device, for these draws where `uniforms` is not given, and for
            the random maps that the effect is measured against.
        phases: times the making of the views.

    Returns:
        "loss"; its parts "raw", "crop", "drop", "center" and, where weighted, "counterfactual";
        "logits" (B,N) and "pooled" (B,M*C) of the raw view; "crops" and "drops" (B,3,H,W).
    """
    options = {"counterfactual": True, "generator": generator} if counterfactual > 0 else {}
    raw = model(images, **options)
    center = model.centers(raw.pooled, labels)
    if move_centers:
        model.centers.update_(gather_rows(raw.pooled), gather_rows(labels))
    with profiler("views"):
        crops, drops = training_views(images, raw.attentions.detach(), uniforms, generator)
    batches = [torch.cat([crops, drops])] if joint_views else [crops, drops]
    outputs = [raw, *(model(views, **options) for views in batches)]
    logits = torch.cat([output.logits for output in outputs]).float()
    parts = {
        name: F.cross_entropy(scores, labels, label_smoothing=label_smoothing)
        for name, scores in zip(("raw", "crop", "drop"), logits.chunk(3), strict=True)
    }
    loss = (parts["raw"] + parts["crop"] + parts["drop"]) / 3 + center_weight * center
    if counterfactual > 0:
        effects = torch.cat([output.effect for output in outputs]).float()
        parts["counterfactual"] = F.cross_entropy(
            effects, labels.repeat(3), label_smoothing=label_smoothing
        )
        loss = loss + counterfactual * parts["counterfactual"]
    views = {"logits": raw.logits, "pooled": raw.pooled, "crops": crops, "drops": drops}
    return {"loss": loss, **parts, "center": center, **views}


def baseline_objective(
    model: nn.Module, images: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, **_: object
) -> dict[str, Tensor]:
    """Cross-entropy of the plain classifier: "loss" and "logits" (B,N)."""
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

    uniforms: (B,4) in [0,1), drawn where not given: of the map to crop by, of the map to drop by,
    of the crop's and of the drop's threshold.
    """
    if uniforms is None:
        shape = (images.shape[0], 4)
        # Not torch.rand: traced, it takes no generator beside a batch size that may change.
        uniforms = torch.empty(shape, device=images.device).uniform_(generator=generator)
    picks = sample_attention(attentions, 2, uniforms=uniforms[:, :2])
    rows = torch.arange(images.shape[0], device=images.device)
    return attention_crop_drop(
        images,
        attentions[rows, picks[:, 0]],
        attentions[rows, picks[:, 1]],
        crop_threshold=_between(uniforms[:, 2], CROP_THRESHOLD),
        drop_threshold=_between(uniforms[:, 3], DROP_THRESHOLD),
        padding=CROP_PADDING,
    )


def _between(uniforms: Tensor, limits: tuple[float, float]) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * uniforms
