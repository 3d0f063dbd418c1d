"""Replacements of WS-DAN.PyTorch's BAP, CenterLoss and batch_augment."""

import random

import torch
from torch import Tensor, nn

from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.functional import attention_drop, bilinear_attention_pool
from wsdan_kernels.views import attention_crop

_REDUCE = {"GAP": "mean", "GMP": "max"}


class BAP(nn.Module):
    """Bilinear attention pooling: features (B,C,h,w), attentions (B,M,h',w') -> (B,M*C).

    Args:
        pool: "GAP" (mean) or "GMP" (max). eps: inside the root; WS-DAN.PyTorch 1e-12, CAL 1e-6.

    Raises:
        ValueError: pool is neither.
    """

    def __init__(self, pool: str = "GAP", eps: float = 1e-12):
        super().__init__()
        if pool not in _REDUCE:
            raise ValueError(f"BAP: pool must be 'GAP' or 'GMP', but got {pool!r}")
        self.reduce = _REDUCE[pool]
        self.eps = eps

    def forward(self, features: Tensor, attentions: Tensor) -> Tensor:
        pooled = bilinear_attention_pool(features, attentions, reduce=self.reduce, eps=self.eps)
        return pooled.flatten(1)


class CenterLoss(nn.Module):
    """Sum of squared differences of outputs and targets, both (B,D), divided by B -> scalar."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum() / outputs.size(0)


def batch_augment(
    images: Tensor,
    attention_map: Tensor,
    mode: str = "crop",
    theta: float | tuple[float, float] = 0.5,
    padding_ratio: float = 0.1,
) -> Tensor:
    """Crop or drop every image by its map, rule "guyuc".

    Args:
        images: (B,C,H,W). attention_map: (B,1,h,w).
        mode: "crop" or "drop". theta: a float, or a (low, high) pair to draw from for every image.
        padding_ratio: of the crop, share of the image's side.

    Returns:
        (B,C,H,W) of the images' dtype.

    Raises:
        ValueError: mode is neither; TypeError, ValueError as the operators raise them.
    """
    if mode not in ("crop", "drop"):
        raise ValueError(f"batch_augment: mode must be 'crop' or 'drop', but got {mode!r}")
    maps = attention_map[:, 0]
    if isinstance(theta, tuple):
        draws = [random.uniform(*theta) for _ in range(images.shape[0])]
        theta = torch.tensor(draws, dtype=accumulation_dtype(maps.dtype)).to(maps.device)
    rule = "guyuc"
    if mode == "drop":
        return attention_drop(images, maps, threshold=theta, rule=rule)
    return attention_crop(images, maps, threshold=theta, padding=padding_ratio, rule=rule)[0]
