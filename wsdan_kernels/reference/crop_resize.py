"""Cutting a box out of every image and resizing it, arXiv:1901.09891 section 3.2, plain PyTorch.

out[b,c,i,j] = sum over the four neighbours of weight * image, the sampling position of row i of a
box of L rows resized to S rows being i (L-1)/(S-1) with align_corners, else (i+1/2) L/S - 1/2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.reference._layout import memory_format
from wsdan_kernels.reference._sampling import (
    clamped_boxes,
    gather_columns,
    gather_rows,
    narrowed,
    resampling_matrix,
    taps,
)


def forward(images: Tensor, boxes: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """images (B,C,H,W), boxes (B,4) int, x1 y1 x2 y2 -> (B,C,height,width)."""
    boxes = clamped_boxes(boxes, images.shape[2], images.shape[3])
    if images.device.type == "cpu":
        return by_image(images, boxes, height, width, align_corners)
    return by_batch(images, boxes, height, width, align_corners)


def by_image(images: Tensor, boxes: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """A loop over the images, as published: the fastest on the CPU."""
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
    """The same without reading the boxes on the host, which would wait for the device."""
    x1, y1, x2, y2 = boxes.unbind(1)
    dtype = accumulation_dtype(images.dtype)
    top, bottom, dy = taps(y1, y2, height, align_corners, dtype)
    left, right, dx = taps(x1, x2, width, align_corners, dtype)
    dy = dy[:, None, :, None]
    dx = dx[:, None, None, :]
    above, below = (gather_rows(images, index).to(dtype) for index in (top, bottom))
    rows = above * (1 - dy) + below * dy
    output = gather_columns(rows, left) * (1 - dx) + gather_columns(rows, right) * dx
    return narrowed(output, images.dtype).contiguous(memory_format=memory_format(images))


def backward(
    grad_output: Tensor, boxes: Tensor, height: int, width: int, align_corners: bool
) -> Tensor:
    """grad_output (B,C,S,T), image size (height, width) -> grad_images (B,C,height,width).

    The transposed resampling, as two dense products: deterministic on every device.
    """
    dtype = accumulation_dtype(grad_output.dtype)
    x1, y1, x2, y2 = clamped_boxes(boxes, height, width).unbind(1)
    rows = resampling_matrix(taps(y1, y2, grad_output.shape[2], align_corners, dtype), height)
    columns = resampling_matrix(taps(x1, x2, grad_output.shape[3], align_corners, dtype), width)
    grad = rows.mT[:, None] @ grad_output.to(dtype) @ columns[:, None]
    return grad.to(grad_output.dtype).contiguous(memory_format=memory_format(grad_output))
