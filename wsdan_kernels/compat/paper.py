"""Replacements of the published listing's functions, as in WS_DAN_PyTorch.

The functions take (attention_maps, input_image) in this order and resize the maps with
align_corners=True, as the listing does; WS_DAN_PyTorch as published left it False (the default of
newer PyTorch): pass align_corners=False for that.
"""

import random

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan_kernels import functional, views

CROP_THRESHOLD = (0.4, 0.6)
DROP_THRESHOLD = (0.2, 0.5)


class BAP(nn.Module):
    """features (B,C,h,w), attentions (B,M,h,w) -> raw features (B,M*C), the same times 100."""

    def forward(self, features: Tensor, attentions: Tensor) -> tuple[Tensor, Tensor]:
        raw = functional.bilinear_attention_pool(features, attentions).flatten(1)
        return raw, raw * 100.0


def attention_crop(
    attention_maps: Tensor, input_image: Tensor, align_corners: bool = True
) -> Tensor:
    """Crop by one drawn map an image, threshold U(0.4,0.6), padding 0.1.

    attention_maps (B,M,h,w), input_image (B,C,H,W) -> (B,C,H,W).
    """
    (maps,), (theta,) = _draw(attention_maps, (CROP_THRESHOLD,))
    return views.attention_crop(input_image, maps, threshold=theta, align_corners=align_corners)[0]


def attention_drop(
    attention_maps: Tensor, input_image: Tensor, align_corners: bool = True
) -> Tensor:
    """Erase by one drawn map an image, threshold U(0.2,0.5).

    attention_maps (B,M,h,w), input_image (B,C,H,W) -> (B,C,H,W).
    """
    (maps,), (theta,) = _draw(attention_maps, (DROP_THRESHOLD,))
    return functional.attention_drop(
        input_image, maps, threshold=theta, align_corners=align_corners
    )


def attention_crop_drop(
    attention_maps: Tensor, input_image: Tensor, align_corners: bool = True
) -> tuple[Tensor, Tensor]:
    """Crop by one drawn map and erase by another.

    attention_maps (B,M,h,w), input_image (B,C,H,W) -> crops, drops, each (B,C,H,W).
    """
    (crop_maps, drop_maps), (crop_theta, drop_theta) = _draw(
        attention_maps, (CROP_THRESHOLD, DROP_THRESHOLD)
    )
    return views.attention_crop_drop(
        input_image,
        crop_maps,
        drop_maps,
        crop_threshold=crop_theta,
        drop_threshold=drop_theta,
        align_corners=align_corners,
    )


# The published code has the same function twice, once through numpy and once through torch.
attention_crop_drop2 = attention_crop_drop


def mask2bbox(attention_maps: Tensor, input_image: Tensor, align_corners: bool = True) -> Tensor:
    """The refined view of test time: crop by the mean map, threshold 0.1, padding 0.05.

    attention_maps (B,M,h,w), input_image (B,C,H,W) -> (B,C,H,W).
    """
    return views.attention_refine(input_image, attention_maps, align_corners=align_corners)[0]


def calculate_pooling_center_loss(
    features: Tensor, centers: Tensor, label: Tensor, beta: float = 0.05
) -> tuple[Tensor, Tensor]:
    """The center loss, and the step the caller adds to centers[label].

    features (B,...) flattened to (B,D), centers (N,D), label (B,) -> loss (), diff (B,D) =
    beta (f_b - c_b).
    """
    features = features.flatten(1)
    loss = functional.center_loss(features, centers, label)
    return loss, beta * (features.detach() - F.normalize(centers[label].detach(), dim=-1))


def _draw(
    attention_maps: Tensor, ranges: tuple[tuple[float, float], ...]
) -> tuple[list[Tensor], list[Tensor]]:
    """One map (B,h,w) and one threshold (B,) for each range.

    numpy's generator gives the picks and Python's the thresholds, image by image, as in the
    published loops, so that the same seeds pick the same maps.
    """
    batch = attention_maps.shape[0]
    device = attention_maps.device
    uniforms = torch.from_numpy(np.random.random_sample((batch, len(ranges)))).to(device)
    picks = functional.sample_attention(attention_maps, len(ranges), uniforms=uniforms)
    draws = [[random.uniform(*limits) for limits in ranges] for _ in range(batch)]
    thetas = torch.tensor(draws, dtype=torch.float64).view(batch, len(ranges)).to(device)
    rows = torch.arange(batch, device=device)
    maps = [attention_maps[rows, picks[:, i]] for i in range(len(ranges))]
    return maps, list(thetas.unbind(1))
