"""Mean and sum pooling as tensor-core products over the positions, forward and backward.

Alphabet: B images, M maps, C channels, K positions. A program holds up to 128 maps forward and 64
backward: so many or fewer, and the features are read once in each direction.
"""

import triton
import triton.language as tl

from wsdan_kernels._triton._device import (
    aligned,
    features_tile,
    flipped,
    known,
    product,
    rows_tile,
    signed_root,
)


@triton.jit
def pool_kernel(
    features, attentions, pooled, squares,
    maps, channels, positions, splits,
    f_image, f_row, f_position, a_image, a_row, a_position,
    factor, eps,
    MAPS: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
    F_LAST: tl.constexpr, F_VECTOR: tl.constexpr, A_LAST: tl.constexpr, A_VECTOR: tl.constexpr,
    WHOLE: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr, SIGNED_SQRT: tl.constexpr,
):  # fmt: skip
    """One block of P (B,M,C) for one image: factor * A F^T.

    Grid: image, map block, channel block, split; the last runs fastest, so that the programs that
    read the same maps run together. Without SPLIT, writes P and `squares` (B, channel blocks, M),
    the sums of S^2 over the block's channels. With it, writes the sum over this split's positions
    to `pooled` (splits,B,M,C). WHOLE: C is a multiple of CHANNELS.
    """
    map_blocks, channel_blocks = tl.cdiv(maps, MAPS), tl.cdiv(channels, CHANNELS)
    program = tl.program_id(0)
    split = program % splits
    block = program // splits
    channel_block = block % channel_blocks
    block = block // channel_blocks
    map_block = block % map_blocks
    image = (block // map_blocks).to(tl.int64)
    images = tl.num_programs(0) // (splits * channel_blocks * map_blocks)

    first_map, first_channel = map_block * MAPS, channel_block * CHANNELS
    m, c, k = tl.arange(0, MAPS), tl.arange(0, CHANNELS), tl.arange(0, POSITIONS)
    f_row, f_position, f_extent, k_extent = known(
        f_row, f_position, channels, positions, F_LAST, F_VECTOR
    )
    a_row, a_position, a_extent, a_end = known(a_row, a_position, maps, positions, A_LAST, A_VECTOR)
    features += image * aligned(f_image, F_VECTOR) + first_channel.to(tl.int64) * f_row
    attentions += image * aligned(a_image, A_VECTOR) + first_map.to(tl.int64) * a_row
    has_map = first_map + m < a_extent
    has_channel = first_channel + c < f_extent

    steps = tl.cdiv(tl.cdiv(positions, POSITIONS), splits)
    start = split * steps * POSITIONS
    stop = tl.minimum(start + steps * POSITIONS, positions)
    total = tl.zeros((MAPS, CHANNELS), tl.float32)
    for first in range(start, stop, POSITIONS):
        there = tl.cast(first, tl.int64)
        in_maps = has_map[:, None] & (first + k < a_end)[None, :]
        a = rows_tile(attentions + there * a_position, m, k, a_row, a_position, in_maps)
        f = features_tile(
            features + there * f_position, c, k, f_row, f_position,
            has_channel, first + k < k_extent, F_LAST, WHOLE,
        )  # fmt: skip
        total = product(a, flipped(f, not F_LAST), total, PRECISION)

    store_block(
        total * factor, pooled, squares, image, images, first_map, maps, first_channel, channels,
        channel_block, split, eps, MAPS, CHANNELS, SPLIT, SIGNED_SQRT,
    )  # fmt: skip


@triton.jit
def store_block(
    total, pooled, squares, image, images, first_map, maps, first_channel, channels,
    channel_block, split, eps,
    MAPS: tl.constexpr, CHANNELS: tl.constexpr, SPLIT: tl.constexpr, SIGNED_SQRT: tl.constexpr,
):  # fmt: skip
    """A block [MAPS, CHANNELS] of P, with its squares; with SPLIT the part of this split alone."""
    m, c = first_map + tl.arange(0, MAPS), first_channel + tl.arange(0, CHANNELS)
    inside = (m < maps)[:, None] & (c < channels)[None, :]
    offsets = m[:, None] * channels + c[None, :]
    if SPLIT:
        tl.store(pooled + (split * images + image) * maps * channels + offsets, total, mask=inside)
    else:
        tl.store(pooled + image * maps * channels + offsets, total, mask=inside)
        root = tl.where(inside, signed_root(total, eps, SIGNED_SQRT), 0.0)
        channel_blocks = tl.cdiv(channels, CHANNELS)
        into = squares + (image * channel_blocks + channel_block) * maps + m
        tl.store(into, tl.sum(root * root, axis=1), mask=m < maps)


@triton.jit
def gradients_kernel(
    features, attentions, grad_pooled, grad_features, grad_attentions,
    maps, channels, positions,
    f_image, f_row, f_position, a_image, a_row, a_position, g_image, g_row, g_position,
    MAPS: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
    F_LAST: tl.constexpr, F_VECTOR: tl.constexpr, A_LAST: tl.constexpr, A_VECTOR: tl.constexpr,
    G_LAST: tl.constexpr, G_VECTOR: tl.constexpr,
    WHOLE: tl.constexpr, ONE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """At one block of positions dA = dP F, summed over C, and with ONE dF = dP^T A too.

    grad_pooled (B,M,C) contiguous, in the features' dtype or in float32; grad_features lies as its
    strides g_* say, grad_attentions (B,M,K) contiguous. Grid: image, block of positions, map block.
    ONE: a single block holds all maps, so this is all of the gradient to the features.
    """
    map_blocks, position_blocks = tl.cdiv(maps, MAPS), tl.cdiv(positions, POSITIONS)
    program = tl.program_id(0)
    block = program // map_blocks
    image = (block // position_blocks).to(tl.int64)
    first = (block % position_blocks) * POSITIONS
    m = (program % map_blocks) * MAPS + tl.arange(0, MAPS)
    c, k = tl.arange(0, CHANNELS), tl.arange(0, POSITIONS)
    f_row, f_position, f_extent, k_extent = known(
        f_row, f_position, channels, positions, F_LAST, F_VECTOR
    )
    a_row, a_position, a_extent, a_end = known(a_row, a_position, maps, positions, A_LAST, A_VECTOR)
    g_row, g_position, _, _ = known(g_row, g_position, channels, positions, G_LAST, G_VECTOR)
    there = first.to(tl.int64)
    features += image * aligned(f_image, F_VECTOR) + there * f_position
    grad_features += image * aligned(g_image, G_VECTOR) + there * g_position
    attentions += image * aligned(a_image, A_VECTOR) + there * a_position
    grad_pooled += image * maps * channels
    in_maps = (m < a_extent)[:, None] & (first + k < a_end)[None, :]
    in_image = first + k < k_extent

    if ONE:
        a = rows_tile(attentions, m, k, a_row, a_position, in_maps)
        a = a.to(grad_pooled.dtype.element_ty)
    total = tl.zeros((MAPS, POSITIONS), tl.float32)
    for first_channel in range(0, channels, CHANNELS):
        from_channel = tl.cast(first_channel, tl.int64)
        has_channel = first_channel + c < f_extent
        f = features_tile(
            features + from_channel * f_row, c, k, f_row, f_position,
            has_channel, in_image, F_LAST, WHOLE,
        )  # fmt: skip
        inside = (m < maps)[:, None] & (first_channel + c < channels)[None, :]
        g = rows_tile(grad_pooled + first_channel, m, c, channels, 1, inside)
        total = product(g, flipped(f, F_LAST).to(g.dtype), total, PRECISION)
        if ONE:
            slope = flipped(tl.zeros((CHANNELS, POSITIONS), tl.float32), F_LAST)
            slope = slope_of(g, a, slope, F_LAST, PRECISION)
            into = grad_features + from_channel * g_row
            store_features(
                into, slope, c, k, g_row, g_position, has_channel, in_image, F_LAST, WHOLE
            )
    into = grad_attentions + (image * maps + m)[:, None] * positions + (first + k)[None, :]
    inside = (m < maps)[:, None] & (first + k < positions)[None, :]
    tl.store(into, total.to(grad_attentions.dtype.element_ty), mask=inside)


@triton.jit
def feature_gradient_kernel(
    attentions, grad_pooled, grad_features, maps, channels, positions,
    a_image, a_row, a_position, g_image, g_row, g_position,
    MAPS: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
    A_LAST: tl.constexpr, A_VECTOR: tl.constexpr, G_LAST: tl.constexpr, G_VECTOR: tl.constexpr,
    WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dF = dP^T A for more maps than one tile holds. Grid: image, position block, channel block."""
    channel_blocks, position_blocks = tl.cdiv(channels, CHANNELS), tl.cdiv(positions, POSITIONS)
    program = tl.program_id(0)
    block = program // channel_blocks
    image = (block // position_blocks).to(tl.int64)
    first = (block % position_blocks) * POSITIONS
    first_channel = (program % channel_blocks) * CHANNELS
    c, k = tl.arange(0, CHANNELS), tl.arange(0, POSITIONS)
    a_row, a_position, a_extent, a_end = known(a_row, a_position, maps, positions, A_LAST, A_VECTOR)
    g_row, g_position, c_extent, k_extent = known(
        g_row, g_position, channels, positions, G_LAST, G_VECTOR
    )
    there, from_channel = first.to(tl.int64), first_channel.to(tl.int64)
    attentions += image * aligned(a_image, A_VECTOR) + there * a_position
    grad_features += image * aligned(g_image, G_VECTOR) + there * g_position + from_channel * g_row
    grad_pooled += image * maps * channels + from_channel
    slope = flipped(tl.zeros((CHANNELS, POSITIONS), tl.float32), G_LAST)
    for first_map in range(0, maps, MAPS):
        m = first_map + tl.arange(0, MAPS)
        in_maps = (m < a_extent)[:, None] & (first + k < a_end)[None, :]
        a = rows_tile(attentions, m, k, a_row, a_position, in_maps)
        inside = (m < maps)[:, None] & (first_channel + c < channels)[None, :]
        g = rows_tile(grad_pooled, m, c, channels, 1, inside)
        slope = slope_of(g, a.to(g.dtype), slope, G_LAST, PRECISION)
    store_features(
        grad_features, slope, c, k, g_row, g_position, first_channel + c < c_extent,
        first + k < k_extent, G_LAST, WHOLE,
    )  # fmt: skip


@triton.jit
def slope_of(g, a, total, LAST: tl.constexpr, PRECISION: tl.constexpr):
    """total + the features' gradient, from dP [maps, channels] and A [maps, positions]."""
    if LAST:
        return product(tl.trans(a), g, total, PRECISION)
    else:
        return product(tl.trans(g), a, total, PRECISION)


@triton.jit
def store_features(
    into, tile, c, k, row_stride, position_stride, has_channel, in_image,
    LAST: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Writes a tile as features_tile reads one."""
    value = tile.to(into.dtype.element_ty)
    if LAST:
        inside = in_image[:, None] if WHOLE else in_image[:, None] & has_channel[None, :]
        tl.store(into + k[:, None] * position_stride + c[None, :] * row_stride, value, mask=inside)
    else:
        inside = in_image[None, :] if WHOLE else in_image[None, :] & has_channel[:, None]
        tl.store(into + c[:, None] * row_stride + k[None, :] * position_stride, value, mask=inside)
