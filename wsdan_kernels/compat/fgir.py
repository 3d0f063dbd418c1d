"""Replacements of FGIR-Backbones' batch_augment and BAP (arXiv:2605.18700, a descendant of CAL).

In a fork's fgir_backbones/model_utils/modules_others/cal.py, `from wsdan_kernels.compat.fgir import
BAP_Counterfactual, batch_augment` takes the place of its own. Its maps are resized bicubic, which
no kernel does: this is plain PyTorch for the whole batch, without a loop over the images and
without waiting for a GPU. Boxes are then cut and exchanged by the operators crop_resize and
attention_swap.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wsdan_kernels.compat import _draws
from wsdan_kernels.compat.cal import BAP
from wsdan_kernels.functional import attention_swap, crop_resize

BAP_Counterfactual = BAP


def batch_augment(
    images: Tensor,
    attention_map: Tensor,
    mode: str = "crop",
    theta: float | tuple[float, float] | Tensor = 0.5,
    padding_ratio: float = 0.1,
    percent_max: bool = True,
    top_k: int | None = None,
) -> Tensor:
    """Crop or drop every image by its map, or exchange the boxes of images 2i and 2i+1.

    T = theta * (maximum of the map before resizing), or of its mean without percent_max, or the
    top_k-th largest of its values; a box spans where the resized map is >= T, a drop keeps where
    it is < T.

    Args:
        images: (B,C,H,W) floating point. attention_map: (B,1,h,w), on the same device.
        mode: "crop", "drop" or "cm". theta: a float, a tensor () or (B,), or a (low, high) pair to
            draw from for every image. padding_ratio: of the box, share of the image's side.
        top_k: None, or how many values of the map reach T.

    Returns:
        (B,C,H,W) of the images' dtype. A map that reaches T nowhere gives the whole image, and a
        box is at least one pixel wide, where the published code raises.

    Raises:
        ValueError: another mode, shapes that differ in B, or an odd B with "cm".
    """
    if mode not in ("crop", "drop", "cm"):
        raise ValueError(f"batch_augment: mode must be 'crop', 'drop' or 'cm', but got {mode!r}")
    if attention_map.dim() != 4 or attention_map.shape[:2] != (images.shape[0], 1):
        rule = f"of shape (B, 1, h, w) with B = {images.shape[0]}"
        came = tuple(attention_map.shape)
        raise ValueError(f"batch_augment: attention_map must be {rule}, but got {came}")
    if mode == "cm" and images.shape[0] % 2:
        came = tuple(images.shape)
        raise ValueError(f"batch_augment: images must be of an even B for 'cm', but got {came}")
    maps = attention_map.detach()
    size = images.shape[2:]
    if mode == "drop" and top_k:
        kept = (maps < _kth_largest(maps, top_k)).to(images.dtype)
        return images * F.interpolate(kept, size, mode="bicubic")
    cut = _kth_largest(maps, top_k) if top_k else _cut(maps, theta, percent_max)
    resized = F.interpolate(maps, size, mode="bicubic")
    if mode == "drop":
        return images * (resized < cut).to(images.dtype)
    reached = (resized >= cut)[:, 0]
    top, bottom = _span(reached.any(2), padding_ratio)
    left, right = _span(reached.any(1), padding_ratio)
    boxes = torch.stack((left, top, right, bottom), dim=1)
    if mode == "crop":
        return crop_resize(images, boxes)
    others = torch.arange(len(boxes), device=boxes.device).view(-1, 2).flip(1).flatten()
    return attention_swap(images, boxes, others)


def _kth_largest(maps: Tensor, k: int) -> Tensor:
    """maps (B,1,h,w) -> (B,1,1,1)."""
    return maps.flatten(1).topk(k, dim=1).values[:, -1, None, None, None]


def _cut(maps: Tensor, theta: float | tuple[float, float] | Tensor, percent_max: bool) -> Tensor:
    """theta of the maximum or of the mean of maps (B,1,h,w) -> (B,1,1,1)."""
    level = maps.amax((1, 2, 3)) if percent_max else maps.mean((1, 2, 3))
    return (_draws.thresholds(theta, maps) * level)[:, None, None, None]


def _span(reached: Tensor, padding_ratio: float) -> tuple[Tensor, Tensor]:
    """reached (B,size) bool -> start and end (B,) int64; the whole axis where nothing is."""
    size = reached.shape[1]
    marks = reached.to(torch.int32)
    first = marks.argmax(1).double() - padding_ratio * size
    last = size - 1 - marks.flip(1).argmax(1).double() + padding_ratio * size
    found = reached.any(1)
    start = torch.where(found, first.trunc().clamp_min(0), 0)
    end = torch.where(found, last.trunc().clamp_max(size), size)
    return start.to(torch.int64), end.to(torch.int64)
