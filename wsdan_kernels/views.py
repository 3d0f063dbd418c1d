"""The attention-guided views of an image: crop, drop, both at once, and the refined view.

They are made of the operators of `wsdan_kernels.functional`. Crop and drop together are one op,
which reads the images once.
"""

import torch
from torch import Tensor

from wsdan_kernels import _checks as check
from wsdan_kernels import ops
from wsdan_kernels.backends import resolve
from wsdan_kernels.functional.attending import attention_boxes, check_view, crop_resize


def attention_crop(
    images: Tensor,
    maps: Tensor,
    *,
    threshold: float | Tensor,
    padding: float = 0.1,
    rule: str = "paper",
    align_corners: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Attention cropping (arXiv:1901.09891 section 3.2): the box of each map, resized to (H,W).

    Args:
        images: (B,C,H,W) floating point or uint8.
        maps: (B,h,w) floating point, on the same device.
        threshold: a float in [0,1] or a (B,) tensor.
        padding: share of the image's side, at least 0.
        rule, align_corners: see `attention_boxes`; align_corners is that of the map's resize.

    Returns:
        views (B,C,H,W) of the images' dtype, and boxes (B,4) int32, x1 y1 x2 y2, half-open.

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
    """
    check.tensor("attention_crop", "images", images, "B C H W", check.IMAGES)
    boxes = attention_boxes(
        maps,
        tuple(images.shape[2:]),
        threshold=threshold,
        padding=padding,
        rule=rule,
        align_corners=align_corners,
        backend=backend,
    )
    return crop_resize(images, boxes, backend=backend), boxes


def attention_crop_drop(
    images: Tensor,
    crop_maps: Tensor,
    drop_maps: Tensor,
    *,
    crop_threshold: float | Tensor,
    drop_threshold: float | Tensor,
    padding: float = 0.1,
    rule: str = "paper",
    align_corners: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Both training views in one call: `attention_crop` and `attention_drop` of the same images.

    Args:
        images: (B,C,H,W) floating point or uint8.
        crop_maps, drop_maps: (B,h,w) floating point, on the same device.
        crop_threshold, drop_threshold: floats in [0,1] or (B,) tensors (paper: U(0.4,0.6) and
            U(0.2,0.5)).
        padding, rule, align_corners: as in `attention_crop`.

    Returns:
        crops and drops, each (B,C,H,W) of the images' dtype.

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
    """
    op = "attention_crop_drop"
    options = (rule, align_corners)
    thresholds = (
        check_view(op, images, crop_maps, crop_threshold, *options, prefix="crop_"),
        check_view(op, images, drop_maps, drop_threshold, *options, prefix="drop_"),
    )
    check.number(op, "padding", padding, 0.0)
    chosen = resolve(op, backend, images.device.type, images.dtype)
    maps, padding = (crop_maps.detach(), drop_maps.detach()), min(float(padding), 1.0)
    crops, drops, _ = ops.attention_crop_drop.forward(
        images, *maps, *thresholds, padding, *options, chosen
    )
    return crops, drops


def attention_refine(
    images: Tensor,
    attentions: Tensor,
    *,
    threshold: float | Tensor = 0.1,
    padding: float = 0.05,
    rule: str = "paper",
    align_corners: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Object localisation and refinement (section 3.3): crop by the mean of all maps.

    Args:
        images: (B,C,H,W) floating point or uint8.
        attentions: (B,M,h,w) floating point, on the same device.
        threshold, padding, rule, align_corners: as in `attention_crop`.

    Returns:
        views (B,C,H,W) of the images' dtype, and boxes (B,4) int32, x1 y1 x2 y2, half-open.

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
    """
    check.tensor("attention_refine", "attentions", attentions, "B M h w")
    check.not_empty("attention_refine", "attentions", attentions, (1, 2, 3))
    return attention_crop(
        images,
        attentions.detach().mean(dim=1),
        threshold=threshold,
        padding=padding,
        rule=rule,
        align_corners=align_corners,
        backend=backend,
    )


def otsu_thresholds(maps: Tensor) -> Tensor:
    """The threshold that best parts each map in two, as a share of its peak (Otsu, 1979).

    Of all cuts of a map's h*w values into n above and h*w - n below, Otsu's has the largest
    variance between the two parts, n * (h*w - n) * (mean above - mean below)^2. The threshold is
    half way between the two values that it parts. For `threshold` of the views; without gradient,
    and without waiting for the device.

    Args:
        maps: (B,h,w) floating point.

    Returns:
        (B,) in [0,1], float32 (float64 for float64). 0, and so a box of the whole image, for a map
        of equal values, without a positive peak, or with a NaN or an infinity.

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
    """
    check.tensor("otsu_thresholds", "maps", maps, "B h w")
    check.not_empty("otsu_thresholds", "maps", maps, (1, 2))
    maps = maps.detach().to(torch.promote_types(maps.dtype, torch.float32))
    values = maps.flatten(1).sort(dim=1, descending=True).values
    peak, least = values[:, :1], values[:, -1:]
    count = values.shape[1]
    if count == 1:
        return torch.zeros_like(peak[:, 0])
    values = values / peak
    above = torch.arange(1, count, dtype=values.dtype, device=values.device)
    sums = values.cumsum(1)
    rest = sums[:, -1:] - sums[:, :-1]
    gap = sums[:, :-1] / above - rest / (count - above)
    best = (above * (count - above) * gap.square()).argmax(1, keepdim=True)
    cut = (values.gather(1, best) + values.gather(1, best + 1)) / 2
    parted = (peak > 0) & (least < peak) & sums[:, -1:].isfinite()
    return torch.where(parted, cut.clamp(0, 1), 0)[:, 0]
