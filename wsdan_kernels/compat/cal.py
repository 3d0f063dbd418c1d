"""Replacements of CAL's BAP, CenterLoss, batch_augment and of how it draws attention maps.

In a fork's fgvc/models/cal.py, `from wsdan_kernels.compat.cal import BAP, choose_attention` takes
the place of its class BAP and of the loop that draws; in its training and inference scripts, `from
wsdan_kernels.compat.cal import CenterLoss, batch_augment` that of those from utils.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan_kernels.compat import _draws
from wsdan_kernels.compat.guyuc import REDUCE, CenterLoss, batch_augment
from wsdan_kernels.functional import bilinear_attention_pool

__all__ = ["BAP", "EPSILON", "CenterLoss", "batch_augment", "choose_attention"]
EPSILON = 1e-6


class BAP(nn.Module):
    """features (B,C,h,w), attentions (B,M,h',w') -> a pair, each (B,M*C): pooled, counterfactual.

    The counterfactual is the mean pooling of the same features under maps drawn from U(0,2) in
    training, and of ones in evaluation. With "GAP" both come from one reading of the features.

    Args:
        pool: "GAP" (mean) or "GMP" (max), of the first result.

    Raises:
        ValueError: pool is neither; TypeError, ValueError as `bilinear_attention_pool` does.
    """

    def __init__(self, pool: str = "GAP"):
        super().__init__()
        if pool not in REDUCE:
            raise ValueError(f"BAP: pool must be 'GAP' or 'GMP', but got {pool!r}")
        self.reduce = REDUCE[pool]

    def forward(self, features: Tensor, attentions: Tensor) -> tuple[Tensor, Tensor]:
        size = features.shape[2:]
        if attentions.shape[2:] != size:
            attentions = F.interpolate(attentions, size, mode="bilinear", align_corners=True)
        if self.training:
            fake = torch.zeros_like(attentions).uniform_(0, 2)
        else:
            fake = torch.ones_like(attentions)
        if self.reduce == "mean":
            both = torch.cat((attentions, fake), dim=1)
            pooled = bilinear_attention_pool(features, both, groups=2, eps=EPSILON)
            actual, counterfactual = pooled.chunk(2, dim=1)
        else:
            actual = bilinear_attention_pool(features, attentions, reduce="max", eps=EPSILON)
            counterfactual = bilinear_attention_pool(features, fake, eps=EPSILON)
        return actual.flatten(1), counterfactual.flatten(1)


def choose_attention(attention_maps: Tensor, num_samples: int = 2) -> Tensor:
    """The maps for the views of a training step: attention_maps (B,M,h,w) -> (B,num_samples,h,w).

    Drawn with the weight sqrt(sum of the map + EPSILON) by numpy's generator, image by image as in
    CAL, so that the same seed draws the same maps. FGIR-Backbones draws 3 for its mode "cm".
    """
    mass = attention_maps.detach().sum(dim=(2, 3))
    weights = F.normalize((mass + EPSILON).sqrt(), p=1, dim=1)
    return _draws.picked(attention_maps, _draws.choices(weights, num_samples))
