"""Max pooling: product and running maximum in registers, nothing of size (B,M,C,K) stored.

Its gradients gather: every element adds up what was taken from it, so no atomics are needed.
"""

import triton
import triton.language as tl

from wsdan_kernels._triton._device import signed_root


@triton.jit
def max_kernel(
    features, attentions, pooled, index, squares,
    maps, channels, positions,
    f_image, f_row, f_position, a_image, a_row, a_position, eps,
    MAPS: tl.constexpr, CHANNELS: tl.constexpr, SIGNED_SQRT: tl.constexpr,
):  # fmt: skip
    """P (B,M,C) = max over k of A F, its lowest k, and squares (B, channel blocks, M) of S.

    A NaN is the largest, as in torch. Grid: image, map block, channel block.
    """
    map_blocks, channel_blocks = tl.cdiv(maps, MAPS), tl.cdiv(channels, CHANNELS)
    program = tl.program_id(0)
    channel_block = program % channel_blocks
    block = program // channel_blocks
    image = (block // map_blocks).to(tl.int64)
    m = (block % map_blocks) * MAPS + tl.arange(0, MAPS)
    c = channel_block * CHANNELS + tl.arange(0, CHANNELS)

    a_rows = attentions + image * a_image + m.to(tl.int64) * a_row
    f_rows = features + image * f_image + c.to(tl.int64) * f_row
    best = tl.full((MAPS, CHANNELS), float("-inf"), tl.float32)
    at = tl.zeros((MAPS, CHANNELS), tl.int32)
    next_a = tl.load(a_rows, mask=m < maps, other=0.0)
    next_f = tl.load(f_rows, mask=c < channels, other=0.0)
    for k in range(0, positions):
        a, f = next_a.to(tl.float32), next_f.to(tl.float32)
        a_rows += a_position
        f_rows += f_position
        more = k + 1 < positions
        next_a = tl.load(a_rows, mask=more & (m < maps), other=0.0)
        next_f = tl.load(f_rows, mask=more & (c < channels), other=0.0)
        # Four instructions an element. The maximum turns every NaN into one pattern, and the sum
        # -0 into 0, so that its bits change exactly where it rises.
        value = a[:, None] * f[None, :] + 0.0
        higher = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
        changed = higher.to(tl.int32, bitcast=True) != best.to(tl.int32, bitcast=True)
        best = higher
        at = tl.where(changed, k, at)

    inside = (m < maps)[:, None] & (c < channels)[None, :]
    offsets = image * maps * channels + m[:, None] * channels + c[None, :]
    tl.store(pooled + offsets, best, mask=inside)
    tl.store(index + offsets, at.to(index.dtype.element_ty), mask=inside)
    root = tl.where(inside, signed_root(best, eps, SIGNED_SQRT), 0.0)
    into = squares + (image * channel_blocks + channel_block) * maps + m
    tl.store(into, tl.sum(root * root, axis=1), mask=m < maps)


@triton.jit
def max_gradients_kernel(
    features, attentions, grad_pooled, index, grad_features, grad_attentions,
    images, maps, channels, positions,
    f_image, f_row, f_position, a_image, a_row, a_position, g_image, g_row, g_position,
    ROWS: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """dF[c,k] = sum over m of dP A where the maximum was at k; dA[m,k] the same over c with F.

    grad_pooled float32 and index, (B,M,C) contiguous. Grid: first the blocks [ROWS channels,
    POSITIONS] of dF, then the blocks [ROWS maps, POSITIONS] of dA.
    """
    position_blocks, channel_blocks = tl.cdiv(positions, POSITIONS), tl.cdiv(channels, ROWS)
    map_blocks = tl.cdiv(maps, ROWS)
    program = tl.program_id(0)
    of_features = images * channel_blocks * position_blocks
    total = tl.zeros((ROWS, POSITIONS), tl.float32)
    if program < of_features:
        k = (program % position_blocks) * POSITIONS + tl.arange(0, POSITIONS)
        block = program // position_blocks
        c = (block % channel_blocks) * ROWS + tl.arange(0, ROWS)
        image = (block // channel_blocks).to(tl.int64)
        taken = image * maps * channels + c
        a_row_of = attentions + image * a_image + k.to(tl.int64) * a_position
        for _ in range(0, maps):
            i = tl.load(index + taken, mask=c < channels, other=0).to(tl.int32)
            g = tl.load(grad_pooled + taken, mask=c < channels, other=0.0)
            a = tl.load(a_row_of, mask=k < positions, other=0.0).to(tl.float32)
            total += tl.where(i[:, None] == k[None, :], g[:, None] * a[None, :], 0.0)
            taken += channels
            a_row_of += a_row
        inside = (c < channels)[:, None] & (k < positions)[None, :]
        into = image * g_image + c.to(tl.int64)[:, None] * g_row + k[None, :] * g_position
        tl.store(grad_features + into, total.to(grad_features.dtype.element_ty), mask=inside)
    else:
        program -= of_features
        k = (program % position_blocks) * POSITIONS + tl.arange(0, POSITIONS)
        block = program // position_blocks
        m = (block % map_blocks) * ROWS + tl.arange(0, ROWS)
        image = (block // map_blocks).to(tl.int64)
        taken = (image * maps + m) * channels
        f_row_of = features + image * f_image + k.to(tl.int64) * f_position
        for _ in range(0, channels):
            i = tl.load(index + taken, mask=m < maps, other=0).to(tl.int32)
            g = tl.load(grad_pooled + taken, mask=m < maps, other=0.0)
            f = tl.load(f_row_of, mask=k < positions, other=0.0).to(tl.float32)
            total += tl.where(i[:, None] == k[None, :], g[:, None] * f[None, :], 0.0)
            taken += 1
            f_row_of += f_row
        inside = (m < maps)[:, None] & (k < positions)[None, :]
        into = (image * maps + m)[:, None] * positions + k[None, :]
        tl.store(grad_attentions + into, total.to(grad_attentions.dtype.element_ty), mask=inside)
