"""CALMix's view (arXiv:2605.18700): boxes of two images exchange their contents, plain PyTorch.

With p = partners[b]: inside box b, out[b] is the box p of image p resized to it, bilinear with
align_corners=True; outside of it, and where p = b, out[b] is images[b].
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.reference._layout import empty_like, memory_format
from wsdan_kernels.reference._sampling import (
    Taps,
    clamped_boxes,
    gather_columns,
    gather_rows,
    narrowed,
    placed_taps,
    resampling_matrix,
)


def forward(images: Tensor, boxes: Tensor, partners: Tensor) -> Tensor:
    """images (B,C,H,W), boxes (B,4) int, x1 y1 x2 y2, partners (B,) int64 -> (B,C,H,W)."""
    boxes = clamped_boxes(boxes, images.shape[2], images.shape[3])
    if images.device.type == "cpu":
        return by_image(images, boxes, partners)
    return by_batch(images, boxes, partners)


def by_image(images: Tensor, boxes: Tensor, partners: Tensor) -> Tensor:
    """A loop over the images, as published: the fastest on the CPU."""
    output = empty_like(images).copy_(images)
    corners = boxes.tolist()
    for b, p in enumerate(partners.tolist()):
        if p == b:
            continue
        (x1, y1, x2, y2), (left, top, right, bottom) = corners[b], corners[p]
        part = images[p : p + 1, :, top:bottom, left:right]
        wide = part.to(accumulation_dtype(part.dtype))  # as by_batch computes it
        size = (y2 - y1, x2 - x1)
        patch = F.interpolate(wide, size, mode="bilinear", align_corners=True)
        output[b, :, y1:y2, x1:x2] = narrowed(patch, images.dtype)[0]
    return output


def by_batch(images: Tensor, boxes: Tensor, partners: Tensor) -> Tensor:
    """The same without reading boxes or partners on the host, which would wait for the device."""
    (top, bottom, dy), (left, right, dx), changed = _taps(images, boxes, partners)
    partner = images[partners]
    above, below = (gather_rows(partner, index).to(dy.dtype) for index in (top, bottom))
    dy, dx = dy[:, None, :, None], dx[:, None, None, :]
    rows = above * (1 - dy) + below * dy
    patch = gather_columns(rows, left) * (1 - dx) + gather_columns(rows, right) * dx
    patch = narrowed(patch, images.dtype)
    output = torch.where(changed, patch, images)
    return output.contiguous(memory_format=memory_format(images))


def backward(grad_output: Tensor, boxes: Tensor, partners: Tensor) -> Tensor:
    """grad_output (B,C,H,W) -> grad_images (B,C,H,W).

    The transposed resampling, as two dense products, added to the gradient of each partner.
    """
    boxes = clamped_boxes(boxes, grad_output.shape[2], grad_output.shape[3])
    rows, columns, changed = _taps(grad_output, boxes, partners)
    wide = grad_output.to(accumulation_dtype(grad_output.dtype))
    height, width = wide.shape[2:]
    inside = torch.where(changed, wide, 0)
    to_rows, to_columns = resampling_matrix(rows, height), resampling_matrix(columns, width)
    given = to_rows.mT[:, None] @ inside @ to_columns[:, None]
    grad = torch.where(changed, 0, wide).index_add(0, partners, given)
    return grad.to(grad_output.dtype).contiguous(memory_format=memory_format(grad_output))


def _taps(images: Tensor, boxes: Tensor, partners: Tensor) -> tuple[Taps, Taps, Tensor]:
    """Where rows and columns of the boxes (B,4) sample the partners', and what changes (B,1,H,W).

    Outside of the boxes the taps are any that lie within the image.
    """
    height, width = images.shape[2:]
    dtype = accumulation_dtype(images.dtype)
    x1, y1, x2, y2 = boxes.unbind(1)
    left, top, right, bottom = boxes[partners].unbind(1)
    rows = placed_taps((top, bottom), (y1, y2), height, dtype)
    columns = placed_taps((left, right), (x1, x2), width, dtype)
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    in_rows = (y >= y1[:, None]) & (y < y2[:, None])
    in_columns = (x >= x1[:, None]) & (x < x2[:, None])
    other = partners != torch.arange(len(partners), device=partners.device)
    changed = in_rows[:, :, None] & in_columns[:, None, :] & other[:, None, None]
    return rows, columns, changed[:, None]
