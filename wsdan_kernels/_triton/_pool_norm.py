"""Root and norm of the pooled features, forward and backward: one program a row (image, map).

The norm runs over rows, so it takes two kernels: the first leaves one sum for each row and block,
the second adds those in a fixed order. No atomics, so the same bits every time.
"""

import triton
import triton.language as tl

from wsdan_kernels._triton._device import MIN_NORM, signed_root


@triton.jit
def add_splits_kernel(
    parts, pooled, squares, rows, channels, splits, eps,
    CHANNELS: tl.constexpr, SIGNED_SQRT: tl.constexpr,
):  # fmt: skip
    """P (B,M,C) = sum over splits of parts (splits,B,M,C); squares (B,1,M) = sum over C of S^2."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((CHANNELS,), tl.float32)
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        value = tl.zeros((CHANNELS,), tl.float32)
        for split in range(0, splits):
            part = parts + (tl.cast(split, tl.int64) * rows + row) * channels
            value += tl.load(part + c, mask=c < channels, other=0.0)
        tl.store(pooled + row * channels + c, value, mask=c < channels)
        root = tl.where(c < channels, signed_root(value, eps, SIGNED_SQRT), 0.0)
        total += root * root
    tl.store(squares + row, tl.sum(total, axis=0))


@triton.jit
def normalize_kernel(
    pooled, squares, output, maps, channels, blocks, group, eps, scale,
    CHANNELS: tl.constexpr, PARTS: tl.constexpr, NORM: tl.constexpr, SIGNED_SQRT: tl.constexpr,
):  # fmt: skip
    """Y (B,M,C) = scale * S / max(norm, 1e-12); squares (B,blocks,M); `group` maps share a norm."""
    row = tl.program_id(0).to(tl.int64)
    if NORM:
        norm = tl.sqrt_rn(span_sum(squares, row, maps, blocks, group, PARTS))
        norm = tl.maximum(norm, MIN_NORM, propagate_nan=tl.PropagateNan.ALL)
    else:
        norm = 1.0
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        value = tl.load(pooled + row * channels + c, mask=c < channels, other=0.0)
        root = signed_root(value, eps, SIGNED_SQRT)
        tl.store(output + row * channels + c, scale * (root / norm), mask=c < channels)


@triton.jit
def row_sums_kernel(
    grad_output, pooled, sums, rows, channels, eps,
    CHANNELS: tl.constexpr, SIGNED_SQRT: tl.constexpr,
):  # fmt: skip
    """sums (2,B,M): over the row's channels, of S^2 and of dY * S."""
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((CHANNELS,), tl.float32)
    along = tl.zeros((CHANNELS,), tl.float32)
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        value = tl.load(pooled + row * channels + c, mask=c < channels, other=0.0)
        grad = tl.load(grad_output + row * channels + c, mask=c < channels, other=0.0)
        root = signed_root(value, eps, SIGNED_SQRT)
        squares += root * root
        along += grad * root
    tl.store(sums + row, tl.sum(squares, axis=0))
    tl.store(sums + rows + row, tl.sum(along, axis=0))


@triton.jit
def pooled_gradient_kernel(
    grad_output, pooled, sums, grad_pooled, rows, maps, channels, group, eps, scale, factor,
    CHANNELS: tl.constexpr, PARTS: tl.constexpr, NORM: tl.constexpr, SIGNED_SQRT: tl.constexpr,
):  # fmt: skip
    """dP (B,M,C) times `factor`: the gradient through norm and root, 0 through the root at P = 0.

    With u = S / norm: dS = (scale dY - u * sum(scale dY * u)) / norm, the sum over what one norm
    spans (0 where the norm is at its floor of 1e-12); dP = dS / (2 sqrt(|P| + eps)).
    """
    row = tl.program_id(0).to(tl.int64)
    if NORM:
        norm = tl.sqrt_rn(span_sum(sums, row, maps, 1, group, PARTS))
        floor = tl.maximum(norm, MIN_NORM, propagate_nan=tl.PropagateNan.ALL)
        along = scale * span_sum(sums + rows, row, maps, 1, group, PARTS) / floor
        along = tl.where(norm > MIN_NORM, along, 0.0)
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        value = tl.load(pooled + row * channels + c, mask=c < channels, other=0.0)
        grad = scale * tl.load(grad_output + row * channels + c, mask=c < channels, other=0.0)
        if NORM:
            unit = signed_root(value, eps, SIGNED_SQRT) / floor
            grad = (grad - unit * along) / floor
        if SIGNED_SQRT:
            slope = 1.0 / (2.0 * tl.sqrt_rn(tl.abs(value) + eps))
            grad = grad * tl.where(value == 0, 0.0, slope)
        into = grad_pooled + row * channels + c
        tl.store(into, (grad * factor).to(grad_pooled.dtype.element_ty), mask=c < channels)


@triton.jit
def span_sum(sums, row, maps, blocks, group, PARTS: tl.constexpr):
    """The sum of sums (B,blocks,M) over the blocks and over the `group` maps that hold this row."""
    image, this = row // maps, row % maps
    base = sums + image * blocks * maps + this // group * group
    total = tl.zeros((PARTS,), tl.float32)
    for first in range(0, blocks * group, PARTS):
        part = first + tl.arange(0, PARTS)
        offsets = part // group * maps + part % group
        total += tl.load(base + offsets, mask=part < blocks * group, other=0.0)
    return tl.sum(total, axis=0)
