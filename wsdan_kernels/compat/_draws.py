"""Random numbers in the order of the published loops, for the whole batch at once."""

import random

import numpy as np
import torch
from torch import Tensor

from wsdan_kernels._dtypes import accumulation_dtype


def choices(weights: Tensor, num_samples: int) -> Tensor:
    """What numpy.random.choice(M, num_samples, p=weights[b]) draws for one image after the other.

    weights (B,M), of any sum above 0 -> (B,num_samples) int64, on the device of the weights.
    """
    numbers = np.random.random_sample((weights.shape[0], num_samples))
    uniforms = torch.from_numpy(numbers).to(weights.device)
    ends = weights.double().cumsum(1)
    ends = ends / ends[:, -1:]
    picks = (ends[:, None, :] <= uniforms[:, :, None]).sum(2)
    return picks.clamp_max(weights.shape[1] - 1)


def picked(attention_maps: Tensor, picks: Tensor) -> Tensor:
    """attention_maps (B,M,h,w), picks (B,S) -> (B,S,h,w)."""
    rows = torch.arange(picks.shape[0], device=picks.device)[:, None]
    return attention_maps[rows, picks]


def thresholds(theta: float | tuple[float, float] | Tensor, maps: Tensor) -> float | Tensor:
    """theta for maps (B,...): a pair is a range to draw from for every image -> (B,).

    A tensor of no axes is one number for all images -> (B,).
    """
    dtype, batch = accumulation_dtype(maps.dtype), maps.shape[0]
    if isinstance(theta, tuple):
        draws = [random.uniform(*theta) for _ in range(batch)]
        return torch.tensor(draws, dtype=dtype).to(maps.device)
    if isinstance(theta, Tensor) and theta.dim() == 0:
        return theta.to(maps.device, dtype).expand(batch)
    return theta


def theta_rows(ranges: tuple[tuple[float, float], ...], maps: Tensor) -> Tensor:
    """A threshold from each range for one image after the other: maps (B,...) -> (B,R) float64."""
    draws = [[random.uniform(*limits) for limits in ranges] for _ in range(maps.shape[0])]
    return torch.tensor(draws, dtype=torch.float64).view(-1, len(ranges)).to(maps.device)
