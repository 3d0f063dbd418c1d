"""Drawing attention maps by their mass, in plain PyTorch (arXiv:1901.09891 section 3.2)."""

import torch
from torch import Tensor


def forward(attentions: Tensor, uniforms: Tensor, weighting: str) -> Tensor:
    """attentions (B,M,h,w), uniforms (B,S) in [0,1) -> picked maps (B,S) int64, by inverse CDF.

    The weight of map m is sqrt(mean of the map); a weight that is negative or not finite counts 0;
    where all are 0, every map is equally likely.
    """
    maps = attentions.shape[1]
    weights = torch.ones(attentions.shape[:2], dtype=torch.float64, device=attentions.device)
    if weighting == "sqrt_mass":
        mass = attentions.flatten(2).to(torch.float32).mean(2).to(torch.float64)
        usable = torch.isfinite(mass) & (mass > 0)
        mass = torch.where(usable, mass, torch.zeros_like(mass)).sqrt()
        weights = torch.where(usable.any(1, keepdim=True), mass, weights)
    ends = weights.cumsum(1)
    target = uniforms.to(torch.float64) * ends[:, -1:]
    below = (ends[:, None, :] <= target[:, :, None]).sum(2)
    return below.clamp_max(maps - 1)
