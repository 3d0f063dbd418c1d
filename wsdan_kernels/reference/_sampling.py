"""Bilinear sampling of boxes: the steps that crop_resize and other samplers share."""

import torch
from torch import Tensor

# Where an axis samples: both neighbours (B,S) int64 and the weight of the upper one (B,S).
Taps = tuple[Tensor, Tensor, Tensor]


def narrowed(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The value as it is stored in `dtype`: for integers rounded to nearest, ties to even."""
    return (value if dtype.is_floating_point else value.round()).to(dtype)


def clamped_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """boxes (B,4), any integer dtype -> (B,4) int64, inside the image and at least 1x1."""
    x1, y1, x2, y2 = boxes.to(torch.int64).unbind(1)
    x1 = x1.clamp(0, width - 1)
    y1 = y1.clamp(0, height - 1)
    x2 = torch.maximum(x2.clamp_max(width), x1 + 1)
    y2 = torch.maximum(y2.clamp_max(height), y1 + 1)
    return torch.stack((x1, y1, x2, y2), dim=1)


def taps(start: Tensor, end: Tensor, size: int, align_corners: bool, dtype: torch.dtype) -> Taps:
    """Where an axis of `size` outputs samples the interval [start, end) of each image.

    start, end (B,) int64 -> taps (B,size), their weights in `dtype`. The position of output i in
    an interval of length L is i (L-1)/(size-1) with align_corners, else
    max((i + 1/2) L/size - 1/2, 0).
    """
    length = end - start
    position = torch.arange(size, device=start.device, dtype=dtype)
    if align_corners:
        step = (length - 1).to(dtype) / max(size - 1, 1)
        source = step[:, None] * position
    else:
        step = length.to(dtype) / size
        source = (step[:, None] * (position + 0.5) - 0.5).clamp_min(0)
    return _neighbours(start, length, source, length == size)


def placed_taps(
    source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], size: int, dtype: torch.dtype
) -> Taps:
    """Where the positions of a target interval of an axis sample a source interval of it.

    source, target: start and end (B,) int64, half-open -> taps (B,size), with align_corners.
    Positions outside of the target sample what its ends do.
    """
    (start, end), (first, last) = source, target
    position = torch.arange(size, device=start.device)
    position = torch.minimum((position - first[:, None]).clamp_min(0), (last - first - 1)[:, None])
    length = end - start
    step = (length - 1).to(dtype) / (last - first - 1).clamp_min(1).to(dtype)
    return _neighbours(start, length, step[:, None] * position.to(dtype), length == last - first)


def _neighbours(start: Tensor, length: Tensor, source: Tensor, same: Tensor) -> Taps:
    """Taps at the positions `source` (B,S) of intervals of this start and length (B,).

    same (B,): the interval keeps its length, and a position has no second neighbour, as in torch:
    one of weight 0 that is not finite would spread.
    """
    last = (length - 1)[:, None]
    lower = torch.minimum(source.to(torch.int64), last)
    weight = (source - lower).clamp(0, 1)
    upper = torch.where(same[:, None], lower, torch.minimum(lower + 1, last))
    return start[:, None] + lower, start[:, None] + upper, weight


def gather_rows(images: Tensor, index: Tensor) -> Tensor:
    """The rows that `index` names: images (B,C,H,W), index (B,S) int64 -> (B,C,S,W)."""
    batch = torch.arange(images.shape[0], device=images.device)[:, None]
    return images.transpose(1, 2)[batch, index].transpose(1, 2)


def gather_columns(images: Tensor, index: Tensor) -> Tensor:
    """The columns that `index` names: images (B,C,S,W), index (B,T) int64 -> (B,C,S,T)."""
    return images.gather(3, index[:, None, None, :].expand(-1, *images.shape[1:3], -1))


def resampling_matrix(neighbours: Taps, size: int) -> Tensor:
    """The taps (B,S) of one axis, see `taps`, as a matrix (B,S,size)."""
    lower, upper, weight = neighbours
    axis = torch.arange(size, device=lower.device)
    at_lower = (lower[:, :, None] == axis).to(weight.dtype) * (1 - weight)[:, :, None]
    return at_lower + (upper[:, :, None] == axis).to(weight.dtype) * weight[:, :, None]
