"""Bilinear sampling of boxes: the steps that crop_resize and other samplers share."""

import torch
from torch import Tensor


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


def taps(
    start: Tensor, end: Tensor, size: int, align_corners: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Where an axis of `size` outputs samples the interval [start, end) of each image.

    start, end (B,) int64 -> lower neighbour and upper neighbour (B,size) int64, and the weight of
    the upper one (B,size) in `dtype`. The position of output i in an interval of length L is
    i (L-1)/(size-1) with align_corners, else max((i + 1/2) L/size - 1/2, 0).
    """
    length = end - start
    position = torch.arange(size, device=start.device, dtype=dtype)
    if align_corners:
        step = (length - 1).to(dtype) / max(size - 1, 1)
        source = step[:, None] * position
    else:
        step = length.to(dtype) / size
        source = (step[:, None] * (position + 0.5) - 0.5).clamp_min(0)
    last = (length - 1)[:, None]
    lower = torch.minimum(source.to(torch.int64), last)
    weight = (source - lower).clamp(0, 1)
    # An axis that keeps its length has no second neighbour, as in torch: one of weight 0 that
    # is not finite would spread.
    upper = torch.where(length[:, None] == size, lower, torch.minimum(lower + 1, last))
    return start[:, None] + lower, start[:, None] + upper, weight


def gather_rows(images: Tensor, index: Tensor) -> Tensor:
    """The rows that `index` names: images (B,C,H,W), index (B,S) int64 -> (B,C,S,W)."""
    batch = torch.arange(images.shape[0], device=images.device)[:, None]
    return images.transpose(1, 2)[batch, index].transpose(1, 2)


def gather_columns(images: Tensor, index: Tensor) -> Tensor:
    """The columns that `index` names: images (B,C,S,W), index (B,T) int64 -> (B,C,S,T)."""
    return images.gather(3, index[:, None, None, :].expand(-1, *images.shape[1:3], -1))


def resampling_matrix(neighbours: tuple[Tensor, Tensor, Tensor], size: int) -> Tensor:
    """The taps (B,S) of one axis, see `taps`, as a matrix (B,S,size)."""
    lower, upper, weight = neighbours
    axis = torch.arange(size, device=lower.device)
    at_lower = (lower[:, :, None] == axis).to(weight.dtype) * (1 - weight)[:, :, None]
    return at_lower + (upper[:, :, None] == axis).to(weight.dtype) * weight[:, :, None]
