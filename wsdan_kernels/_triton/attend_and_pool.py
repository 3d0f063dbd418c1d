"""Attention maps and pooling in one pass over the features, for inference.

A program holds the sums of all its channels and goes through the positions once: the maps of a
block of positions need every channel, the pooling under them reads the same block again while it is
in cache.
"""

import triton
import triton.language as tl
from torch import Tensor

from wsdan_kernels._triton import _tuning as tuning
from wsdan_kernels._triton._device import aligned, features_tile, flipped, known, product, rows_tile
from wsdan_kernels._triton._launch import (
    as_rows,
    cdiv,
    device_of,
    dot_precision,
    gpu_of,
    up_to_power_of_two,
)
from wsdan_kernels._triton._pool_product import store_block
from wsdan_kernels._triton.bilinear_attention_pool import add_splits, normalize_rows


def forward(
    features: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    bn_eps: float,
    reduce: str,
    signed_sqrt: bool,
    normalize: str,
    eps: float,
    scale: float,
    output: Tensor,
    attentions: Tensor,
) -> None:
    """For 16 bits, M <= 32; see reference.attend_and_pool. Fills Y (B,M,C) and A (B,M,h,w)."""
    batch, channels, height, width = features.shape
    maps, positions = weight.shape[0], height * width
    if batch == 0:
        return
    f, a = as_rows(features), as_rows(attentions)
    gpu = gpu_of(features)
    block = up_to_power_of_two(maps, 16, triton.next_power_of_2(maps))
    tile = tuning.tile("attend", features.element_size(), block, gpu.capability)
    most = max(1, tuning.ATTEND_SUMS // (block * tile.channels))
    blocks = cdiv(channels, tile.channels)
    groups = cdiv(blocks, most)
    each = cdiv(blocks, groups)
    splits = tuning.splits(
        batch * groups,
        cdiv(positions, tile.positions),
        tuning.attend_enough(gpu.multiprocessors),
    )
    pooled = output.new_empty(output.shape)
    squares = output.new_empty((batch, blocks, maps))
    parts = pooled if splits == 1 else output.new_empty((splits, *output.shape))
    with device_of(features):
        attend_kernel[(batch * groups * splits,)](
            f.tensor, weight.to(features.dtype).contiguous(), gamma, beta, mean, variance,
            a.tensor, parts, squares,
            maps, channels, positions, splits, groups, *f[1:4], *a[1:4], bn_eps,
            1.0 / positions if reduce == "mean" else 1.0, eps,
            MAPS=block, CHANNELS=tile.channels, POSITIONS=tile.positions, BLOCKS=each,
            F_LAST=f.last, F_VECTOR=f.vector, WHOLE=channels % (tile.channels * each) == 0,
            SPLIT=splits > 1, PRECISION=dot_precision(features.dtype), SIGNED_SQRT=signed_sqrt,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        if splits > 1:
            squares = add_splits(parts, pooled, eps, signed_sqrt)
        normalize_rows(pooled, squares, output, normalize, 1, eps, scale, signed_sqrt)


@triton.jit
def attend_kernel(
    features, weight, gamma, beta, mean, variance, attentions, pooled, squares,
    maps, channels, positions, splits, groups,
    f_image, f_row, f_position, a_image, a_row, a_position, bn_eps, factor, eps,
    MAPS: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, BLOCKS: tl.constexpr,
    F_LAST: tl.constexpr, F_VECTOR: tl.constexpr, WHOLE: tl.constexpr, SPLIT: tl.constexpr,
    PRECISION: tl.constexpr, SIGNED_SQRT: tl.constexpr,
):  # fmt: skip
    """A = relu(norm(W F)) and P (B,M,C) = factor * A F^T, BLOCKS blocks of channels a program.

    The norm is batch norm with its running mean and variance. Grid: image, group of channel blocks,
    split of the positions. The first group writes the maps. pooled, squares: as in pool_kernel.
    """
    program = tl.program_id(0)
    split = program % splits
    group = (program // splits) % groups
    image = (program // (splits * groups)).to(tl.int64)
    images = tl.num_programs(0) // (splits * groups)
    m, c, k = tl.arange(0, MAPS), tl.arange(0, CHANNELS), tl.arange(0, POSITIONS)
    f_row, f_position, f_extent, k_extent = known(
        f_row, f_position, channels, positions, F_LAST, F_VECTOR
    )
    features += image * aligned(f_image, F_VECTOR)
    attentions += image * a_image
    is_map = m < maps
    factor_of_map = tl.load(gamma + m, mask=is_map, other=0.0).to(tl.float32) / tl.sqrt_rn(
        tl.load(variance + m, mask=is_map, other=1.0).to(tl.float32) + bn_eps
    )
    offset = tl.load(beta + m, mask=is_map, other=0.0).to(tl.float32)
    offset -= tl.load(mean + m, mask=is_map, other=0.0).to(tl.float32) * factor_of_map

    steps = tl.cdiv(tl.cdiv(positions, POSITIONS), splits)
    start = split * steps * POSITIONS
    stop = tl.minimum(start + steps * POSITIONS, positions)
    first_block = group * BLOCKS
    totals = ()
    for _ in tl.static_range(BLOCKS):
        totals = totals + (tl.zeros((MAPS, CHANNELS), tl.float32),)
    for first in range(start, stop, POSITIONS):
        here = features + tl.cast(first, tl.int64) * f_position
        in_image = first + k < k_extent
        seen = tl.zeros((MAPS, POSITIONS), tl.float32)
        for first_channel in range(0, channels, CHANNELS):
            has_channel = first_channel + c < f_extent
            base = here + tl.cast(first_channel, tl.int64) * f_row
            f = features_tile(base, c, k, f_row, f_position, has_channel, in_image, F_LAST, WHOLE)
            w = rows_tile(
                weight + first_channel, m, c, channels, 1,
                is_map[:, None] & (first_channel + c < channels)[None, :],
            )  # fmt: skip
            seen = product(w, flipped(f, F_LAST), seen, PRECISION)
        a = tl.maximum(
            seen * factor_of_map[:, None] + offset[:, None], 0.0, propagate_nan=tl.PropagateNan.ALL
        )
        a = tl.where((first + k < positions)[None, :], a, 0.0).to(features.dtype.element_ty)
        if group == 0:
            into = attentions + m.to(tl.int64)[:, None] * a_row
            into += (first + k).to(tl.int64)[None, :] * a_position
            tl.store(into, a, mask=is_map[:, None] & (first + k < positions)[None, :])
        sums = ()
        for i in tl.static_range(BLOCKS):
            first_channel = (first_block + i) * CHANNELS
            has_channel = first_channel + c < f_extent
            base = here + first_channel.to(tl.int64) * f_row
            f = features_tile(base, c, k, f_row, f_position, has_channel, in_image, F_LAST, WHOLE)
            sums = sums + (product(a, flipped(f, not F_LAST), totals[i], PRECISION),)
        totals = sums
    for i in tl.static_range(BLOCKS):
        if first_block + i < tl.cdiv(channels, CHANNELS):
            store_block(
                totals[i] * factor, pooled, squares, image, images, 0, maps,
                (first_block + i) * CHANNELS, channels, first_block + i, split, eps,
                MAPS, CHANNELS, SPLIT, SIGNED_SQRT,
            )  # fmt: skip
