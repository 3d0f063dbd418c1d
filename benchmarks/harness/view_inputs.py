"""What the benchmarks of the views work on: images, maps, and the numbers that were drawn."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from harness import gpu, published
from torch import Tensor

import wsdan_kernels as wk
from wsdan_kernels.reference import attention_boxes as reference_boxes

SEED = 0  # of all that is drawn
NEAR = 4e-6  # a resized value this near to the threshold, relatively, may be rounded across it


@dataclass
class Inputs:
    """Images and their maps; for each image two drawn maps, and thresholds for both and for
    the refined view."""

    images: Tensor  # (B,3,H,W)
    attentions: Tensor  # (B,M,h,w)
    uniforms: Tensor  # (B,2), what the maps are drawn by
    crop_maps: Tensor  # (B,h,w)
    drop_maps: Tensor  # (B,h,w)
    crop_thresholds: Tensor  # (B,)
    drop_thresholds: Tensor  # (B,)
    refine_thresholds: Tensor  # (B,)

    def __post_init__(self):
        """The thresholds on the host, where the published loops draw them."""
        self.crop_list = self.crop_thresholds.tolist()
        self.drop_list = self.drop_thresholds.tolist()
        self.refine_list = self.refine_thresholds.tolist()

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.images.shape[2:])

    @property
    def device(self) -> str:
        return self.images.device.type

    @property
    def thresholds(self) -> tuple[Tensor, Tensor]:
        return self.crop_thresholds, self.drop_thresholds


def make_inputs(
    sizes: dict[str, int],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
) -> Inputs:
    """Random images; every map is a blob at a random place over a little noise."""
    generator = torch.Generator().manual_seed(SEED)
    batch, maps, height, width = (sizes[key] for key in "BMhw")
    size = sizes["H"], sizes["W"]
    images = torch.rand((batch, 3, *size), generator=generator)
    y, x = (torch.rand((batch, maps, 1, 1), generator=generator) for _ in range(2))
    rows = torch.linspace(0, 1, height)[:, None]
    columns = torch.linspace(0, 1, width)
    attentions = torch.exp(-30 * ((rows - y) ** 2 + (columns - x) ** 2))
    attentions += 0.05 * torch.rand(attentions.shape, generator=generator)
    uniforms = torch.from_numpy(np.random.RandomState(SEED).random_sample((batch, 2)))
    attentions, uniforms = attentions.to(device), uniforms.to(device)
    chosen = drawn(attentions, uniforms)
    ranges = (published.CROP_RANGE, published.DROP_RANGE, [published.REFINE_THRESHOLD] * 2)
    thresholds = (torch.empty(batch).uniform_(*limits, generator=generator) for limits in ranges)
    return Inputs(
        images.to(device, dtype).to(memory_format=layout),
        attentions,
        uniforms,
        *chosen,
        *(
            _clear(maps, values.to(device), size)
            for maps, values in zip((*chosen, attentions.mean(1)), thresholds, strict=True)
        ),
    )


def in_turns(inputs: Inputs) -> list[Inputs]:
    """The inputs, and copies of them to take turns with on a GPU."""
    values = [getattr(inputs, field.name) for field in fields(Inputs)]
    count = gpu.input_sets(inputs.images.nbytes, inputs.device)
    return [inputs] + [Inputs(*(value.clone() for value in values)) for _ in range(count - 1)]


def drawn(attentions: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B,h,w) of each image, by our sampler."""
    picks = wk.sample_attention(attentions, uniforms=uniforms)
    rows = torch.arange(len(picks), device=picks.device)
    return attentions[rows, picks[:, 0]], attentions[rows, picks[:, 1]]


def _clear(maps: Tensor, thresholds: Tensor, size: tuple[int, int]) -> Tensor:
    """maps (B,h,w), thresholds (B,): each raised until rounding decides no pixel of its mask.

    Devices and libraries round a resized map differently; where a value lies at the threshold, one
    mask would differ from the other by a pixel, and both would be right.
    """
    cleared, pending = thresholds.clone(), torch.arange(len(maps), device=maps.device)
    while len(pending):
        chosen = maps[pending].double()
        up = reference_boxes.resize_maps(chosen, *size, True).flatten(1)
        near = torch.zeros_like(pending, dtype=torch.bool)
        for peak in (up.amax(1), chosen.amax((1, 2))):  # of either rule
            cut = (cleared[pending].double() * peak)[:, None]
            near |= ((up - cut).abs() <= NEAR * cut).any(1)
        pending = pending[near]
        cleared[pending] += 1e-4
    return cleared
