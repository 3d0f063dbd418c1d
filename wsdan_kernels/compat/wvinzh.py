"""Replacements of WS_DAN_PyTorch's functions, with its signatures and defaults.

In a fork, `from wsdan_kernels.compat.wvinzh import attention_crop_drop, attention_drop, ...` in
utils/__init__.py instead of `from .attention import ...`, and `from wsdan_kernels.compat.wvinzh
import BAP` in model/inception_bap.py and model/resnet.py.

Maps are resized with align_corners=False and crops with True, as there. Its loops take (H,W) for
(W,H), which is the same for square images only: here every image is cut as it stands. In float64
they run in plain PyTorch, whose bits are those of the published code; float32 is the operators'.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan_kernels import functional, views
from wsdan_kernels.compat import _draws

CROP_THRESHOLD = (0.4, 0.6)
DROP_THRESHOLD = (0.2, 0.5)
RESIZE = {"align_corners": False}


class BAP(nn.Module):
    """features (B,C,h,w), attentions (B,M,h,w) -> raw features (B,M*C), the same times 100."""

    def __init__(self, **kwargs):
        super().__init__()

    def forward(self, feature_maps: Tensor, attention_maps: Tensor) -> tuple[Tensor, Tensor]:
        if feature_maps.dtype == torch.float64:
            raw = _published_pool(feature_maps, attention_maps)
        else:
            raw = functional.bilinear_attention_pool(feature_maps, attention_maps).flatten(1)
        return raw, raw * 100


def attention_crop(attention_maps: Tensor, input_image: Tensor) -> Tensor:
    """Crop by one drawn map an image, threshold U(0.4,0.6), padding 0.1.

    attention_maps (B,M,h,w), input_image (B,C,H,W) -> (B,C,H,W).
    """
    ((maps, theta),) = _draw(attention_maps, input_image, CROP_THRESHOLD)
    backend = _backend(input_image)
    return views.attention_crop(input_image, maps, threshold=theta, backend=backend, **RESIZE)[0]


def attention_drop(attention_maps: Tensor, input_image: Tensor) -> Tensor:
    """Erase by one drawn map an image, threshold U(0.2,0.5).

    attention_maps (B,M,h,w), input_image (B,C,H,W) -> (B,C,H,W).
    """
    ((maps, theta),) = _draw(attention_maps, input_image, DROP_THRESHOLD)
    backend = _backend(input_image)
    return functional.attention_drop(input_image, maps, threshold=theta, backend=backend, **RESIZE)


def attention_crop_drop(attention_maps: Tensor, input_image: Tensor) -> tuple[Tensor, Tensor]:
    """Crop by one drawn map and erase by another.

    attention_maps (B,M,h,w), input_image (B,C,H,W) -> crops, drops, each (B,C,H,W).
    """
    (crop_maps, crop_theta), (drop_maps, drop_theta) = _draw(
        attention_maps, input_image, CROP_THRESHOLD, DROP_THRESHOLD
    )
    return views.attention_crop_drop(
        input_image,
        crop_maps,
        drop_maps,
        crop_threshold=crop_theta,
        drop_threshold=drop_theta,
        backend=_backend(input_image),
        **RESIZE,
    )


# The published code has the same function twice, once through numpy and once through torch.
attention_crop_drop2 = attention_crop_drop


def mask2bbox(attention_maps: Tensor, input_image: Tensor) -> Tensor:
    """The refined view of test time: crop by the mean map, threshold 0.1, padding 0.05.

    attention_maps (B,M,h,w), input_image (B,C,H,W) -> (B,C,H,W).
    """
    backend = _backend(input_image)
    return views.attention_refine(input_image, attention_maps, backend=backend, **RESIZE)[0]


def calculate_pooling_center_loss(
    features: Tensor, centers: Tensor, label: Tensor, alfa: float = 0.95
) -> tuple[Tensor, Tensor]:
    """The center loss, and the step the caller adds to centers[label].

    features (B,...) flattened to (B,D), centers (N,D), label (B,) int64 -> loss (), diff (B,D) =
    (1 - alfa) (f_b - c_b). Of images with one label, plain indexing keeps the last step.
    """
    features = features.flatten(1)
    chosen = F.normalize(centers[label], dim=-1)
    loss = (features - chosen).square().sum(1).mean()
    return loss, (1 - alfa) * (features.detach() - chosen)


def _published_pool(features: Tensor, attentions: Tensor) -> Tensor:
    """The product, the root and the norm, (B,M*C).

    An einsum sums in the alphabetical order of its letters: these give the published bits.
    """
    positions = features.shape[2] * features.shape[3]
    pooled = torch.einsum("bmyz,bnyz->bmn", attentions, features).flatten(1) / positions
    return F.normalize(pooled.sign() * (pooled.abs() + 1e-12).sqrt(), dim=1)


def _backend(tensor: Tensor) -> str:
    return "reference" if tensor.dtype == torch.float64 else "auto"


def _draw(
    attention_maps: Tensor, images: Tensor, *ranges: tuple[float, float]
) -> list[tuple[Tensor, Tensor]]:
    """A map (B,h,w) and a threshold (B,) for each range, drawn as in the published loops.

    The weight of a map is sqrt(its mean at the images' size) + 1e-12.
    """
    attention_maps = attention_maps.detach()
    rows, columns = (
        _mass_of_positions(attention_maps, attention_maps.shape[axis], images.shape[axis])
        for axis in (2, 3)
    )
    means = (attention_maps.to(rows.dtype) @ columns) @ rows
    picks = _draws.choices(means.sqrt() + 1e-12, len(ranges))
    maps = _draws.picked(attention_maps, picks)
    thetas = _draws.theta_rows(ranges, attention_maps)
    return [(maps[:, i], thetas[:, i]) for i in range(len(ranges))]


def _mass_of_positions(maps: Tensor, size: int, resized: int) -> Tensor:
    """The share of each of `size` positions in the mean of an axis resized to `resized` (size,)."""
    dtype = torch.float64 if maps.dtype == torch.float64 else torch.float32
    each = torch.eye(size, dtype=dtype, device=maps.device)[None]
    return F.interpolate(each, resized, mode="linear", **RESIZE)[0].mean(1)
