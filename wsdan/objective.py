"""What a training step minimises: one function from a batch to its losses and views."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan.phases import UNTIMED, Phases
from wsdan_kernels import attention_crop_drop, sample_attention

# arXiv:1901.09891 section 3.2 and 4.1.
CROP_THRESHOLD = (0.4, 0.6)
DROP_THRESHOLD = (0.2, 0.5)
CROP_PADDING = 0.1


def wsdan_objective(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    center_weight: float = 1.0,
    generator: torch.Generator | None = None,
    phases: Phases = UNTIMED,
) -> dict[str, Tensor]:
    """The WS-DAN objective: three cross-entropies and the center loss; moves the centers.

    loss = (CE(raw) + CE(crop) + CE(drop)) / 3 + center_weight * center loss of the raw view. The
    crop and the drop view are each made by one map of the raw pass, drawn by its mass.

    Args:
        model: a WSDAN in training mode. images (B,3,H,W) floating point, labels (B,) int64.
        generator: of the images' device, for the draws of maps and thresholds.
        phases: times the making of the views.

    Returns:
        "loss" to run backward on; "raw", "crop", "drop" and "center", its parts; "logits" (B,N) of
        the raw view; "crops" and "drops" (B,3,H,W), the views.
    """
    raw = model(images)
    center = model.centers(raw.pooled, labels)
    model.centers.update_(raw.pooled, labels)
    with phases("views"):
        crops, drops = training_views(images, raw.attentions.detach(), generator)
    parts = {
        "raw": F.cross_entropy(raw.logits, labels),
        "crop": F.cross_entropy(model(crops).logits, labels),
        "drop": F.cross_entropy(model(drops).logits, labels),
        "center": center,
    }
    loss = (parts["raw"] + parts["crop"] + parts["drop"]) / 3 + center_weight * center
    return {"loss": loss, **parts, "logits": raw.logits, "crops": crops, "drops": drops}


def baseline_objective(
    model: nn.Module, images: Tensor, labels: Tensor, **_: object
) -> dict[str, Tensor]:
    """Cross-entropy of the plain classifier: "loss" and "logits" (B,N)."""
    logits = model(images).logits
    return {"loss": F.cross_entropy(logits, labels), "logits": logits}


OBJECTIVES: dict[str, Callable] = {"wsdan": wsdan_objective, "baseline": baseline_objective}


@torch.no_grad()
def training_views(
    images: Tensor, attentions: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """images (B,3,H,W), attentions (B,M,h,w) -> crops and drops, each (B,3,H,W)."""
    batch = images.shape[0]
    picks = sample_attention(attentions, 2, generator=generator)
    rows = torch.arange(batch, device=images.device)
    thresholds = torch.rand((2, batch), device=images.device, generator=generator)
    return attention_crop_drop(
        images,
        attentions[rows, picks[:, 0]],
        attentions[rows, picks[:, 1]],
        crop_threshold=_between(thresholds[0], CROP_THRESHOLD),
        drop_threshold=_between(thresholds[1], DROP_THRESHOLD),
        padding=CROP_PADDING,
    )


def _between(uniforms: Tensor, limits: tuple[float, float]) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * uniforms
