"""Device functions that several kernels share."""

import triton
import triton.language as tl

MIN_NORM = tl.constexpr(1e-12)


@triton.jit
def aligned(value, VECTOR: tl.constexpr):
    """The same value, known to the compiler as a multiple of VECTOR, which it must be."""
    return value // VECTOR * VECTOR


@triton.jit
def known(row, position, rows, positions, LAST: tl.constexpr, VECTOR: tl.constexpr):
    """Strides and extents of rows (see _launch.Rows) with what the compiler should know of them.

    The elements along the axis of stride 1 come in multiples of VECTOR, and so does the other
    stride: then a masked load is as wide as an unmasked one.
    """
    if LAST:
        return row, aligned(position, VECTOR), aligned(rows, VECTOR), positions
    else:
        return aligned(row, VECTOR), position, rows, aligned(positions, VECTOR)


@triton.jit
def product(left, right, total, PRECISION: tl.constexpr):
    """total + left @ right, summed in float32; PRECISION of _launch.dot_precision."""
    if PRECISION == "wide":
        left, right = left.to(tl.float32), right.to(tl.float32)
        return tl.dot(left, right, total, input_precision="ieee")
    elif PRECISION == "tf32x3":
        left_high, right_high = tf32_part(left), tf32_part(right)
        low = tl.dot(left - left_high, right_high, input_precision="tf32")
        low = tl.dot(left_high, right - right_high, low, input_precision="tf32")
        low = tl.where(low == low, low, 0.0)  # an infinity less itself is NaN
        return total + tl.dot(left_high, right_high, low, input_precision="tf32")
    else:
        return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def tf32_part(value):
    """The tf32 near a float32, less than 2^-10.5 of it away; infinities and NaN stay what they are.

    Two instructions: what is added before the cut is two thirds of half a unit to four thirds.
    triton's own rounding takes four, an integer sum would turn some NaN into 0.
    """
    raised = value * (1 + 2 / 3 / 2**11)
    return (raised.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def signed_root(pooled, eps, SIGNED_SQRT: tl.constexpr):
    """sign(P) sqrt(|P| + eps), 0 where P = 0; P itself without SIGNED_SQRT."""
    if SIGNED_SQRT:
        root = tl.sqrt_rn(tl.abs(pooled) + eps)
        root = tl.where(pooled < 0, -root, root)
        return tl.where(pooled == 0, 0.0, root)
    else:
        return pooled


@triton.jit
def features_tile(
    base, c, k, row_stride, position_stride, has_channel, in_image,
    LAST: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The tile as it lies in memory: [positions, channels] with LAST, else [channels, positions].

    In that order the pipeline copies it to shared memory without a stop in registers.
    """
    if LAST:
        inside = in_image[:, None] if WHOLE else in_image[:, None] & has_channel[None, :]
        return rows_tile(base, k, c, position_stride, row_stride, inside)
    else:
        inside = in_image[None, :] if WHOLE else in_image[None, :] & has_channel[:, None]
        return rows_tile(base, c, k, row_stride, position_stride, inside)


@triton.jit
def flipped(tile, FLIP: tl.constexpr):
    """The tile, transposed with FLIP."""
    return tl.trans(tile) if FLIP else tile


@triton.jit
def rows_tile(base, rows, positions, row_stride, position_stride, mask):
    """The tile [rows, positions] that starts at `base`, 0 where not in the mask."""
    offsets = rows[:, None] * row_stride + positions[None, :] * position_stride
    return tl.load(base + offsets, mask=mask, other=0.0)
