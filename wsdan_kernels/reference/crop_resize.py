"""Cutting a box out of every image and resizing it, arXiv:1901.09891 section 3.2, plain PyTorch.

out[b,c,i,j] = sum over the four neighbours of weight * image, the sampling position of row i of a
box of L rows resized to S rows being i (L-1)/(S-1) with align_corners, else (i+1/2) L/S - 1/2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wsdan_kernels.reference._layout import memory_format


def forward(images: Tensor, boxes: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """images (B,C,H,W), boxes (B,4) int, x1 y1 x2 y2 -> (B,C,height,width)."""
    boxes = clamped(boxes, images.shape[2], images.shape[3])
    if images.device.type == "cpu":
        return by_image(images, boxes, height, width, align_corners)
    return by_batch(images, boxes, height, width, align_corners)


def by_image(images: Tensor, boxes: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """The published loop: fastest where the boxes are at hand on the host."""
    output = torch.empty(
        (*images.shape[:2], height, width),
        dtype=images.dtype,
        device=images.device,
        memory_format=memory_format(images),
    )
    for b, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        part = images[b : b + 1, :, y1:y2, x1:x2]
        # uint8 is computed in float32: torch's own kernel for it uses fixed point.
        wide = part if part.is_floating_point() else part.to(torch.float32)
        crop = F.interpolate(wide, (height, width), mode="bilinear", align_corners=align_corners)
        output[b] = narrowed(crop, images.dtype)[0]
    return output


def by_batch(images: Tensor, boxes: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """The same without looking at the boxes, so that a device need not wait for the host."""
    x1, y1, x2, y2 = boxes.unbind(1)
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    top, bottom, dy = taps(y1, y2, height, align_corners, dtype)
    left, right, dx = taps(x1, x2, width, align_corners, dtype)
    dy = dy[:, None, :, None]
    dx = dx[:, None, None, :]
    rows = torch.lerp(_rows(images, top).to(dtype), _rows(images, bottom).to(dtype), dy)
    output = torch.lerp(_columns(rows, left), _columns(rows, right), dx)
    return narrowed(output, images.dtype).contiguous(memory_format=memory_format(images))


def backward(
    grad_output: Tensor, boxes: Tensor, height: int, width: int, align_corners: bool
) -> Tensor:
    """grad_output (B,C,S,T), image size (height, width) -> grad_images (B,C,height,width).

    The transposed resampling as two small dense products, so that it is deterministic everywhere.
    """
    dtype = torch.float64 if grad_output.dtype == torch.float64 else torch.float32
    x1, y1, x2, y2 = clamped(boxes, height, width).unbind(1)
    rows = _matrix(taps(y1, y2, grad_output.shape[2], align_corners, dtype), height)
    columns = _matrix(taps(x1, x2, grad_output.shape[3], align_corners, dtype), width)
    grad = rows.mT[:, None] @ grad_output.to(dtype) @ columns[:, None]
    return grad.to(grad_output.dtype).contiguous(memory_format=memory_format(grad_output))


def narrowed(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The floating-point value as it is stored: integers rounded to nearest, ties to even."""
    return (value if dtype.is_floating_point else value.round()).to(dtype)


def clamped(boxes: Tensor, height: int, width: int) -> Tensor:
    """boxes (B,4) -> the same int64, moved inside the image and at least one pixel wide."""
    x1, y1, x2, y2 = boxes.to(torch.int64).unbind(1)
    x1 = x1.clamp(0, width - 1)
    y1 = y1.clamp(0, height - 1)
    x2 = torch.maximum(x2.clamp_max(width), x1 + 1)
    y2 = torch.maximum(y2.clamp_max(height), y1 + 1)
    return torch.stack((x1, y1, x2, y2), dim=1)


def taps(
    start: Tensor, end: Tensor, size: int, align_corners: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """start, end (B,) -> lower neighbour, upper neighbour (B,size) int64, upper weight (B,size)."""
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
    upper = torch.minimum(lower + 1, last)
    return start[:, None] + lower, start[:, None] + upper, weight


def _rows(images: Tensor, index: Tensor) -> Tensor:
    """images (B,C,H,W), index (B,S) -> (B,C,S,W)."""
    batch = torch.arange(images.shape[0], device=images.device)[:, None]
    return images.transpose(1, 2)[batch, index].transpose(1, 2)


def _columns(images: Tensor, index: Tensor) -> Tensor:
    """images (B,C,S,W), index (B,T) -> (B,C,S,T)."""
    return images.gather(3, index[:, None, None, :].expand(-1, *images.shape[1:3], -1))


def _matrix(neighbours: tuple[Tensor, Tensor, Tensor], size: int) -> Tensor:
    """Taps of one axis as a resampling matrix (B,S,size)."""
    lower, upper, weight = neighbours
    axis = torch.arange(size, device=lower.device)
    at_lower = (lower[:, :, None] == axis).to(weight.dtype) * (1 - weight)[:, :, None]
    return at_lower + (upper[:, :, None] == axis).to(weight.dtype) * weight[:, :, None]
