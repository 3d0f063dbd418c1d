"""Launchers of the pooling kernels; see reference.bilinear_attention_pool for what they compute."""

import torch
from torch import Tensor

from wsdan_kernels._triton import _tuning as tuning
from wsdan_kernels._triton._launch import (
    Rows,
    as_rows,
    cdiv,
    device_of,
    dot_precision,
    gpu_of,
    up_to_power_of_two,
)
from wsdan_kernels._triton._pool_max import max_gradients_kernel, max_kernel
from wsdan_kernels._triton._pool_norm import (
    add_splits_kernel,
    normalize_kernel,
    pooled_gradient_kernel,
    row_sums_kernel,
)
from wsdan_kernels._triton._pool_product import (
    feature_gradient_kernel,
    gradients_kernel,
    pool_kernel,
)


def forward(
    features: Tensor,
    attentions: Tensor,
    reduce: str,
    signed_sqrt: bool,
    normalize: str,
    groups: int,
    eps: float,
    scale: float,
    output: Tensor,
    pooled: Tensor,
    index: Tensor,
) -> None:
    """Fills Y (B,M,C), P (B,M,C) and, for max, the positions (B,M,C). Two launches, or three."""
    if features.shape[0] == 0:
        return
    f, a = as_rows(features), as_rows(attentions)
    with device_of(features):
        if reduce == "max":
            squares = _max(f, a, pooled, index, eps, signed_sqrt)
        else:
            squares = _product(f, a, pooled, reduce, eps, signed_sqrt)
        normalize_rows(pooled, squares, output, normalize, groups, eps, scale, signed_sqrt)


def backward(
    grad_output: Tensor,
    features: Tensor,
    attentions: Tensor,
    pooled: Tensor,
    index: Tensor,
    reduce: str,
    signed_sqrt: bool,
    normalize: str,
    groups: int,
    eps: float,
    scale: float,
    grad_features: Tensor,
    grad_attentions: Tensor,
) -> None:
    """Fills the gradients, grad_features in the features' memory format.

    Three launches; four for mean and sum with more maps than one tile holds.
    """
    batch, maps, channels = pooled.shape
    if batch == 0:
        return
    f, a = as_rows(features), as_rows(attentions)
    positions = f.positions
    rows = batch * maps
    # A float16 would overflow here: the slope of the root alone reaches 5e5.
    wide = reduce == "max" or features.dtype == torch.float16
    grad_pooled = torch.empty_like(pooled, dtype=pooled.dtype if wide else features.dtype)
    sums = pooled.new_empty((2, batch, maps))
    row = tuning.ROW
    common = {"CHANNELS": row, "SIGNED_SQRT": signed_sqrt}
    grad_output = grad_output.to(torch.float32).contiguous()
    with device_of(features):
        row_sums_kernel[(rows,)](grad_output, pooled, sums, rows, channels, eps, **common)
        pooled_gradient_kernel[(rows,)](
            grad_output, pooled, sums, grad_pooled, rows, maps, channels,
            norm_span(normalize, maps, groups), eps, scale,
            1.0 / positions if reduce == "mean" else 1.0,
            PARTS=tuning.SPAN, NORM=normalize != "none", **common,
        )  # fmt: skip
        if reduce == "max":
            _max_gradients(f, a, grad_pooled, index, grad_features, grad_attentions)
        else:
            _gradients(f, a, grad_pooled, grad_features, grad_attentions)


def norm_span(normalize: str, maps: int, groups: int) -> int:
    """How many maps share a norm."""
    return maps // groups if normalize == "all" else 1


def normalize_rows(
    pooled: Tensor,
    squares: Tensor,
    output: Tensor,
    normalize: str,
    groups: int,
    eps: float,
    scale: float,
    signed_sqrt: bool,
) -> None:
    """Y from P (B,M,C) and squares (B,blocks,M), the sums of S^2 by blocks of channels."""
    batch, maps, channels = pooled.shape
    normalize_kernel[(batch * maps,)](
        pooled, squares, output, maps, channels, squares.shape[1],
        norm_span(normalize, maps, groups), eps, scale,
        CHANNELS=tuning.ROW, PARTS=tuning.SPAN, NORM=normalize != "none", SIGNED_SQRT=signed_sqrt,
    )  # fmt: skip


def add_splits(parts: Tensor, pooled: Tensor, eps: float, signed_sqrt: bool) -> Tensor:
    """P (B,M,C) from parts (splits,B,M,C); returns the squares (B,1,M)."""
    batch, maps, channels = pooled.shape
    squares = pooled.new_empty((batch, 1, maps))
    add_splits_kernel[(batch * maps,)](
        parts, pooled, squares, batch * maps, channels, parts.shape[0], eps,
        CHANNELS=tuning.ROW, SIGNED_SQRT=signed_sqrt,
    )  # fmt: skip
    return squares


def _product(
    f: Rows, a: Rows, pooled: Tensor, reduce: str, eps: float, signed_sqrt: bool
) -> Tensor:
    batch, maps, channels = pooled.shape
    positions = f.positions
    block = up_to_power_of_two(maps, 16, tuning.MOST_MAPS)
    tile = _tile("pool", f, block)
    channel_blocks = cdiv(channels, tile.channels)
    programs = batch * cdiv(maps, block) * channel_blocks
    steps = cdiv(positions, tile.positions)
    splits = tuning.splits(programs, steps, tuning.FILL * gpu_of(f.tensor).multiprocessors)
    squares = pooled.new_empty((batch, channel_blocks, maps))
    parts = pooled if splits == 1 else pooled.new_empty((splits, *pooled.shape))
    pool_kernel[(programs * splits,)](
        f.tensor, a.tensor, parts, squares, maps, channels, positions, splits, *f[1:4], *a[1:4],
        1.0 / positions if reduce == "mean" else 1.0, eps,
        MAPS=block, CHANNELS=tile.channels, POSITIONS=tile.positions,
        F_LAST=f.last, F_VECTOR=f.vector, A_LAST=a.last, A_VECTOR=a.vector,
        WHOLE=channels % tile.channels == 0, SPLIT=splits > 1,
        PRECISION=dot_precision(f.tensor.dtype), SIGNED_SQRT=signed_sqrt,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return squares if splits == 1 else add_splits(parts, pooled, eps, signed_sqrt)


def _gradients(
    f: Rows, a: Rows, grad_pooled: Tensor, grad_features: Tensor, grad_attentions: Tensor
) -> None:
    batch, maps, channels = grad_pooled.shape
    positions = f.positions
    block = up_to_power_of_two(maps, 16, tuning.MOST_MAPS_BACKWARD)
    tile = _tile("gradients", f, block)
    map_blocks, position_blocks = cdiv(maps, block), cdiv(positions, tile.positions)
    g = as_rows(grad_features)
    sizes = (maps, channels, positions)
    options = {
        "MAPS": block, "CHANNELS": tile.channels, "POSITIONS": tile.positions,
        "A_LAST": a.last, "A_VECTOR": a.vector, "G_LAST": g.last, "G_VECTOR": g.vector,
        "WHOLE": channels % tile.channels == 0,
        "PRECISION": dot_precision(f.tensor.dtype, grad_pooled.dtype),
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    gradients_kernel[(batch * position_blocks * map_blocks,)](
        f.tensor, a.tensor, grad_pooled, grad_features, grad_attentions, *sizes,
        *f[1:4], *a[1:4], *g[1:4], F_LAST=f.last, F_VECTOR=f.vector, ONE=map_blocks == 1, **options,
    )  # fmt: skip
    if map_blocks > 1:
        channel_blocks = cdiv(channels, tile.channels)
        feature_gradient_kernel[(batch * position_blocks * channel_blocks,)](
            a.tensor, grad_pooled, grad_features, *sizes, *a[1:4], *g[1:4], **options
        )


def _max(f: Rows, a: Rows, pooled: Tensor, index: Tensor, eps: float, signed_sqrt: bool) -> Tensor:
    batch, maps, channels = pooled.shape
    tile, block = tuning.MAX_TILE, tuning.MAX_MAPS
    channel_blocks = cdiv(channels, tile.channels)
    squares = pooled.new_empty((batch, channel_blocks, maps))
    max_kernel[(batch * cdiv(maps, block) * channel_blocks,)](
        f.tensor, a.tensor, pooled, index, squares, maps, channels,
        f.positions, *f[1:4], *a[1:4], eps,
        MAPS=block, CHANNELS=tile.channels, SIGNED_SQRT=signed_sqrt, num_warps=tile.warps,
    )  # fmt: skip
    return squares


def _max_gradients(
    f: Rows, a: Rows, grad_pooled: Tensor, index: Tensor, grad_features: Tensor,
    grad_attentions: Tensor,
) -> None:  # fmt: skip
    batch, maps, channels = grad_pooled.shape
    positions = f.positions
    tile = tuning.MAX_GRADIENT_TILE
    row_blocks = cdiv(channels, tile.channels) + cdiv(maps, tile.channels)
    max_gradients_kernel[(batch * cdiv(positions, tile.positions) * row_blocks,)](
        f.tensor, a.tensor, grad_pooled, index, grad_features, grad_attentions,
        batch, maps, channels, positions, *f[1:4], *a[1:4], *as_rows(grad_features)[1:4],
        ROWS=tile.channels, POSITIONS=tile.positions, num_warps=tile.warps,
    )  # fmt: skip


def _tile(kernel: str, f: Rows, maps: int) -> tuning.Tile:
    size = f.tensor.element_size()
    tile = tuning.tile(kernel, size, maps, gpu_of(f.tensor).capability)
    if kernel == "gradients" and size == 4 and not f.last:
        if f.vector == 1:
            return tile._replace(warps=8)  # every float32 has an address of its own
        tile = tile._replace(stages=min(tile.stages, 2))  # with three, triton 3.8 spills
    # Under 4 bytes nothing is copied asynchronously: tiles in flight would lie in registers.
    return tile if f.vector * size >= 4 else tile._replace(stages=1)
