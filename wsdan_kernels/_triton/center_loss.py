"""Feature centers on the GPU: the loss with its difference, and the update."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wsdan_kernels._triton._device import MIN_NORM
from wsdan_kernels._triton._launch import device_of
from wsdan_kernels._triton._tuning import CENTER_LABELS, CENTER_PARTS, CENTER_WIDTH


def forward(features: Tensor, centers: Tensor, labels: Tensor, loss: Tensor, difference: Tensor):
    """See reference.center_loss.forward; fills loss () and difference (B,D), float32.

    A label out of range makes its difference, and so the loss, NaN.
    """
    batch, dim = features.shape
    if batch == 0:
        loss.zero_()
        return
    features, labels, centers = features.contiguous(), labels.contiguous(), unit_rows(centers)
    blocks = triton.cdiv(dim, CENTER_WIDTH)
    squares, parts = difference.new_empty((2, batch, blocks))
    sizes = (centers.shape[0], dim, centers.stride(0))
    grid = (batch * blocks,)
    with device_of(features):
        squares_kernel[grid](centers, labels, squares, *sizes, WIDTH=CENTER_WIDTH)
        difference_kernel[grid](
            features, centers, labels, squares, difference, parts, *sizes,
            WIDTH=CENTER_WIDTH, PARTS=CENTER_PARTS,
        )  # fmt: skip
        mean_kernel[(1,)](parts, loss, batch * blocks, batch, PARTS=CENTER_PARTS)


def update(centers: Tensor, features: Tensor, labels: Tensor, beta: float, duplicates: str):
    """See reference.center_loss.update; a label out of range moves nothing."""
    batch, dim = features.shape
    if batch == 0:
        return
    features, labels, rows = features.contiguous(), labels.contiguous(), unit_rows(centers)
    blocks = triton.cdiv(dim, CENTER_WIDTH)
    squares = features.new_empty((batch, blocks), dtype=torch.float32)
    sizes = (rows.shape[0], dim, rows.stride(0))
    grid = (batch * blocks,)
    with device_of(features):
        squares_kernel[grid](rows, labels, squares, *sizes, WIDTH=CENTER_WIDTH)
        update_kernel[grid](
            rows, features, labels, squares, batch, *sizes, beta, WIDTH=CENTER_WIDTH,
            PARTS=CENTER_PARTS, LABELS=CENTER_LABELS, MEAN=duplicates == "mean",
        )  # fmt: skip
    if rows is not centers:
        centers.copy_(rows)


def unit_rows(centers: Tensor) -> Tensor:
    """The centers (N,D) themselves where a row lies together, else a copy."""
    return centers if centers.stride(1) == 1 or centers.shape[1] == 1 else centers.contiguous()


@triton.jit
def squares_kernel(centers, labels, squares, classes, dim, stride, WIDTH: tl.constexpr):
    """squares (B,blocks): of the label's center, over WIDTH columns. Grid: image, block."""
    blocks = tl.cdiv(dim, WIDTH)
    program = tl.program_id(0)
    label = tl.load(labels + program // blocks)
    column = (program % blocks) * WIDTH + tl.arange(0, WIDTH)
    known = (label >= 0) & (label < classes)
    inside = known & (column < dim)
    center = tl.load(centers + label * stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(squares + program, tl.sum(center * center, axis=0))


@triton.jit
def difference_kernel(
    features, centers, labels, squares, difference, parts, classes, dim, stride,
    WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """difference (B,D) = f - c / max(||c||, 1e-12); parts (B,blocks), its squares' sums."""
    blocks = tl.cdiv(dim, WIDTH)
    program = tl.program_id(0)
    image = (program // blocks).to(tl.int64)
    label = tl.load(labels + image)
    column = (program % blocks) * WIDTH + tl.arange(0, WIDTH)
    known = (label >= 0) & (label < classes)
    inside = column < dim
    center = tl.load(
        centers + label * stride + column, mask=known & inside, other=float("nan")
    ).to(tl.float32)  # fmt: skip
    feature = tl.load(features + image * dim + column, mask=inside, other=0.0).to(tl.float32)
    value = feature - center / center_norm(squares, image, blocks, PARTS)
    tl.store(difference + image * dim + column, value, mask=inside)
    value = tl.where(inside, value, 0.0)
    tl.store(parts + program, tl.sum(value * value, axis=0))


@triton.jit
def mean_kernel(parts, loss, count, batch, PARTS: tl.constexpr):
    """loss () = the sum of parts (count,) / batch, in a fixed order."""
    tl.store(loss, sum_of(parts, count, PARTS) / batch)


@triton.jit
def update_kernel(
    centers, features, labels, squares, batch, classes, dim, stride, beta,
    WIDTH: tl.constexpr, PARTS: tl.constexpr, LABELS: tl.constexpr, MEAN: tl.constexpr,
):  # fmt: skip
    """centers[label] += beta * the sum (or mean) of f - c / max(||c||, 1e-12) over its images.

    Grid: image, block. The first image with a label does the work for all of them, so a center is
    read and written by one program, in the order of the batch.
    """
    blocks = tl.cdiv(dim, WIDTH)
    program = tl.program_id(0)
    image = program // blocks
    label = tl.load(labels + image)
    earlier = 0
    for first in range(0, image, LABELS):
        other = first + tl.arange(0, LABELS)
        theirs = tl.load(labels + other, mask=other < image, other=-1)
        earlier += tl.sum((theirs == label).to(tl.int32), axis=0)
    if (earlier == 0) & (label >= 0) & (label < classes):
        column = (program % blocks) * WIDTH + tl.arange(0, WIDTH)
        inside = column < dim
        into = centers + label * stride + column
        center = tl.load(into, mask=inside, other=0.0).to(tl.float32)
        unit = center / center_norm(squares, image.to(tl.int64), blocks, PARTS)
        total = tl.zeros((WIDTH,), tl.float32)
        count = 0
        for other_image in range(image, batch):
            if tl.load(labels + other_image) == label:
                row = features + tl.cast(other_image, tl.int64) * dim
                total += tl.load(row + column, mask=inside, other=0.0).to(tl.float32) - unit
                count += 1
        if MEAN:
            total = total / count
        tl.store(into, (center + beta * total).to(centers.dtype.element_ty), mask=inside)


@triton.jit
def center_norm(squares, image, blocks, PARTS: tl.constexpr):
    """max(||c||, 1e-12) from squares (B,blocks)."""
    norm = tl.sqrt_rn(sum_of(squares + image * blocks, blocks, PARTS))
    return tl.maximum(norm, MIN_NORM, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def sum_of(values, count, PARTS: tl.constexpr):
    """The sum of `count` values, in a fixed order."""
    total = tl.zeros((PARTS,), tl.float32)
    for first in range(0, count, PARTS):
        part = first + tl.arange(0, PARTS)
        total += tl.load(values + part, mask=part < count, other=0.0)
    return tl.sum(total, axis=0)
