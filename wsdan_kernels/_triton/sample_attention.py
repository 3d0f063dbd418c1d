"""Drawing attention maps by their mass on the GPU, without a host synchronisation."""

import triton
import triton.language as tl
from torch import Tensor

from wsdan_kernels._triton._launch import as_rows, device_of, up_to_power_of_two
from wsdan_kernels._triton._tuning import SAMPLE_ELEMENTS


def forward(attentions: Tensor, uniforms: Tensor, weighting: str, picks: Tensor) -> None:
    """See reference.sample_attention; fills picks (B,S) int64."""
    batch, maps, height, width = attentions.shape
    if batch == 0:
        return
    draws = uniforms.shape[1]
    block = up_to_power_of_two(maps, 16, triton.next_power_of_2(maps))
    rows = as_rows(attentions)
    with device_of(attentions):
        sample_kernel[(batch,)](
            rows.tensor, uniforms.contiguous(), picks,
            maps, height * width, draws, rows.image, rows.row, rows.position,
            MAPS=block, POSITIONS=max(1, SAMPLE_ELEMENTS // block),
            BY_MASS=weighting == "sqrt_mass",
        )  # fmt: skip


@triton.jit
def sample_kernel(
    attentions, uniforms, picks, maps, positions, draws, a_image, a_row, a_position,
    MAPS: tl.constexpr, POSITIONS: tl.constexpr, BY_MASS: tl.constexpr,
):  # fmt: skip
    """One image: the weights of its maps in float64, their running sum, and the picks by it."""
    image = tl.program_id(0).to(tl.int64)
    m = tl.arange(0, MAPS)
    ones = tl.where(m < maps, 1.0, 0.0).to(tl.float64)
    weights = ones
    if BY_MASS:
        total = tl.zeros((MAPS, POSITIONS), tl.float32)
        base = attentions + image * a_image
        for first in range(0, positions, POSITIONS):
            k = first + tl.arange(0, POSITIONS)
            inside = (m < maps)[:, None] & (k < positions)[None, :]
            offsets = m.to(tl.int64)[:, None] * a_row + k.to(tl.int64)[None, :] * a_position
            total += tl.load(base + offsets, mask=inside, other=0.0).to(tl.float32)
        mass = (tl.sum(total, axis=1) / positions).to(tl.float64)
        usable = (mass > 0) & (mass < float("inf"))
        mass = tl.sqrt(tl.where(usable, mass, 0.0))
        weights = tl.where(tl.max(usable.to(tl.int32), axis=0) > 0, mass, ones)
    ends = tl.cumsum(weights, axis=0)
    last = tl.max(ends, axis=0)
    for draw in range(0, draws):
        target = tl.load(uniforms + image * draws + draw).to(tl.float64) * last
        below = tl.sum(((ends <= target) & (m < maps)).to(tl.int32), axis=0)
        tl.store(picks + image * draws + draw, tl.minimum(below, maps - 1).to(tl.int64))
