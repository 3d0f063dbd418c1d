"""Replacements of WS-DAN.PyTorch's BAP, CenterLoss and batch_augment.

In a fork, three files change:

- models/wsdan.py: leave out its class BAP; `from wsdan_kernels.compat.guyuc import BAP`;
- train.py: `from utils import AverageMeter, TopKAccuracyMetric, ModelCheckpoint` and
  `from wsdan_kernels.compat.guyuc import CenterLoss, batch_augment`;
- eval.py: `from utils import TopKAccuracyMetric` and
  `from wsdan_kernels.compat.guyuc import batch_augment`.

Or none changes: `install` replaces them while the program runs.
"""

import importlib

import torch
from torch import Tensor, nn

from wsdan_kernels.compat import _draws
from wsdan_kernels.compat._install import Installed
from wsdan_kernels.functional import attention_drop, bilinear_attention_pool
from wsdan_kernels.views import attention_crop

REDUCE = {"GAP": "mean", "GMP": "max"}


class BAP(nn.Module):
    """Bilinear attention pooling: features (B,C,h,w), attentions (B,M,h',w') -> (B,M*C).

    Args:
        pool: "GAP" (mean) or "GMP" (max). eps: inside the root.

    Raises:
        ValueError: pool is neither. TypeError: the result is unpacked, as that of CAL's BAP, which
            is `wsdan_kernels.compat.cal.BAP`.
    """

    def __init__(self, pool: str = "GAP", eps: float = 1e-12):
        super().__init__()
        if pool not in REDUCE:
            raise ValueError(f"BAP: pool must be 'GAP' or 'GMP', but got {pool!r}")
        self.reduce = REDUCE[pool]
        self.eps = eps

    def forward(self, features: Tensor, attentions: Tensor) -> Tensor:
        pooled = bilinear_attention_pool(features, attentions, reduce=self.reduce, eps=self.eps)
        pooled = pooled.flatten(1)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return pooled
        return pooled.as_subclass(_Pooled)


class _Pooled(Tensor):
    """A tensor that is not unpacked; what is computed of it is an ordinary tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __iter__(self):
        raise TypeError(
            "BAP: the result must be used as one tensor (B, M*C), but got unpacked: CAL's BAP, "
            "which returns a pair, is wsdan_kernels.compat.cal.BAP (rows: result.unbind())"
        )


class CenterLoss(nn.Module):
    """Sum of squared differences of outputs and targets, both (B,D), divided by B -> scalar."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum() / outputs.size(0)


def batch_augment(
    images: Tensor,
    attention_map: Tensor,
    mode: str = "crop",
    theta: float | tuple[float, float] | Tensor = 0.5,
    padding_ratio: float = 0.1,
) -> Tensor:
    """Crop or drop every image by its map, rule "guyuc".

    Args:
        images: (B,C,H,W). attention_map: (B,1,h,w).
        mode: "crop" or "drop". theta: a float in [0,1], a tensor () or (B,), or a (low, high) pair
            to draw from for every image.
        padding_ratio: of the crop, share of the image's side.

    Returns:
        (B,C,H,W) of the images' dtype.

    Raises:
        ValueError: mode is neither; TypeError, ValueError as the operators raise them.
    """
    if mode not in ("crop", "drop"):
        raise ValueError(f"batch_augment: mode must be 'crop' or 'drop', but got {mode!r}")
    maps = attention_map[:, 0]
    theta = _draws.thresholds(theta, maps)
    rule = "guyuc"
    if mode == "drop":
        return attention_drop(images, maps, threshold=theta, rule=rule)
    return attention_crop(images, maps, threshold=theta, padding=padding_ratio, rule=rule)[0]


def install(model_module: str = "models.wsdan", utils_module: str = "utils") -> Installed:
    """Replace BAP, CenterLoss and batch_augment in a running fork, wherever they were imported.

        guyuc.install()              # for good, before the network is built
        with guyuc.install(): ...    # undone at the end

    Args:
        model_module: where BAP is defined. utils_module: where batch_augment is, and CenterLoss,
            which older versions lack. Both are imported if they are not yet.

    Returns:
        A context manager; `undo()` puts back what the fork had.

    Raises:
        ImportError: a module is not found, or lacks BAP or batch_augment.
    """
    twins = {"BAP": BAP, "batch_augment": batch_augment, "CenterLoss": CenterLoss}
    homes = {"BAP": model_module, "batch_augment": utils_module, "CenterLoss": utils_module}
    replacements = []
    for name, home in homes.items():
        found = getattr(importlib.import_module(home), name, None)
        if found is not None:
            replacements.append((found, twins[name]))
        elif name != "CenterLoss":
            raise ImportError(f"install: {home} must define {name}, but has none")
    return Installed(replacements)
