"""The threshold of the refined view's box (arXiv:1901.09891 section 3.3)."""

from torch import Tensor

from wsdan.config import Config
from wsdan.constants import AUTO
from wsdan_kernels import otsu_thresholds


def refine_threshold(attentions: Tensor, config: Config) -> float | Tensor:
    """The threshold of `attention_refine` for maps (B,M,h,w): `config.refine_threshold`, or, where
    that is "auto", a tensor (B,) with Otsu's of each mean map. Nothing waits for the device."""
    if config.refine_threshold == AUTO:
        return otsu_thresholds(attentions.mean(dim=1))
    return float(config.refine_threshold)


def raised(threshold: float | Tensor, extra: float) -> float | Tensor:
    """The threshold plus `extra`, at most 1."""
    if isinstance(threshold, Tensor):
        return (threshold + extra).clamp(max=1.0)
    return min(threshold + extra, 1.0)
