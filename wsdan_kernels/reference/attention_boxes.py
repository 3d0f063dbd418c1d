"""Attention map to bounding box, arXiv:1901.09891 section 3.2-3.3, in plain PyTorch.

up = the map resized to the image, bilinear; T = threshold * peak; the box spans the rows and
columns where up >= T, and is padded. The peak is max(up) under rule "paper" and the maximum of the
map before resizing under rule "guyuc"; the two rules also round and pad differently.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wsdan_kernels._dtypes import accumulation_dtype


def resize_maps(maps: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """maps (B,h,w) -> (B,height,width), bilinear, in float32 (float64 stays float64)."""
    maps = maps.to(accumulation_dtype(maps.dtype))
    size = (height, width)
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=align_corners)[:, 0]


def reached(
    maps: Tensor, thresholds: Tensor, height: int, width: int, rule: str, align_corners: bool
) -> Tensor:
    """maps (B,h,w), thresholds (B,T) -> (B,T,height,width) bool: where up >= T.

    False everywhere for a map whose peak is not positive or that holds a NaN or an infinity.
    """
    up = resize_maps(maps, height, width, align_corners)
    peak = (up if rule == "paper" else maps.to(up.dtype)).amax((1, 2))
    alive = torch.isfinite(maps).all(2).all(1) & (peak > 0)
    cut = thresholds.to(up.dtype) * peak[:, None]
    return (up[:, None] >= cut[:, :, None, None]) & alive[:, None, None, None]


def forward(
    maps: Tensor,
    thresholds: Tensor,
    height: int,
    width: int,
    padding: float,
    rule: str,
    align_corners: bool,
) -> Tensor:
    """maps (B,h,w), thresholds (B,T) -> boxes (B,T,4) int32, x1 y1 x2 y2, half-open."""
    hit = reached(maps, thresholds, height, width, rule, align_corners)
    y1, y2 = _span(hit.any(3), height, padding, rule)
    x1, x2 = _span(hit.any(2), width, padding, rule)
    return torch.stack((x1, y1, x2, y2), dim=2).to(torch.int32)


def _span(hit: Tensor, size: int, padding: float, rule: str) -> tuple[Tensor, Tensor]:
    """hit (B,T,size) bool -> start and end (B,T); the whole axis where nothing is hit."""
    marks = hit.to(torch.int32)
    first = marks.argmax(2)
    last = size - 1 - marks.flip(2).argmax(2)
    if rule == "paper":
        pad = int(padding * size)
        start = first - pad
        end = last + pad
    else:
        pad = padding * size
        start = (first.to(torch.float64) - pad).trunc().to(torch.int64)
        end = (last.to(torch.float64) + pad).trunc().to(torch.int64)
    start = start.clamp_min(0)
    end = torch.maximum(end.clamp_max(size), start + 1)
    found = hit.any(2)
    return torch.where(found, start, 0), torch.where(found, end, size)
