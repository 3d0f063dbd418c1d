"""From what the refined view's box is found (arXiv:1901.09891 section 3.3)."""

from torch import Tensor
from torch.nn import functional as F

from wsdan.config import Config
from wsdan.constants import AUTO
from wsdan_kernels import otsu_thresholds


def object_maps(attentions: Tensor, config: Config) -> tuple[Tensor, float | Tensor]:
    """Attention maps (B,M,h,w) -> maps (B,h,w) that show the object, and their threshold.

    The map is the mean of an image's maps, averaged over `config.refine_smoothing` x
    `config.refine_smoothing` cells, at the edge over those that are there. The threshold is
    `config.refine_threshold` or, where that is "auto", Otsu's (B,). Nothing waits for the device.
    """
    maps = attentions.mean(dim=1)
    size = config.refine_smoothing
    if size > 1:
        maps = F.avg_pool2d(
            maps[:, None], size, stride=1, padding=size // 2, count_include_pad=False
        )[:, 0]
    if config.refine_threshold == AUTO:
        return maps, otsu_thresholds(maps)
    return maps, float(config.refine_threshold)


def raised(threshold: float | Tensor, extra: float) -> float | Tensor:
    """The threshold plus `extra`, at most 1."""
    if isinstance(threshold, Tensor):
        return (threshold + extra).clamp(max=1.0)
    return min(threshold + extra, 1.0)
