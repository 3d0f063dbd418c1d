"""Drawing attention maps, boxes, crops, drops and swaps (arXiv:1901.09891 section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wsdan_kernels import _checks as check
from wsdan_kernels import ops
from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.backends import resolve

RULES = ("paper", "guyuc")


def sample_attention(
    attentions: Tensor,
    num_samples: int = 2,
    *,
    weighting: str = "sqrt_mass",
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Draw attention maps for the views of a training step (section 3.2).

    Independent draws with replacement, on the device and without a host synchronisation. Map m has
    the weight sqrt(mean of map m), normalised per image; a weight that is negative or NaN counts 0,
    and where all weights are 0 every map is equally likely.

    Args:
        attentions: (B,M,h,w) floating point.
        num_samples: draws per image, an integer >= 1.
        weighting: "sqrt_mass", or "uniform" for equal weights.
        generator: of the tensor's device; None is torch's default.
        uniforms: (B,num_samples) floating point in [0,1): the random numbers to use instead.

    Returns:
        (B,num_samples) int64 in [0,M).

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
    """
    op = "sample_attention"
    check.tensor(op, "attentions", attentions, "B M h w")
    check.not_empty(op, "attentions", attentions, (1, 2, 3))
    check.integer(op, "num_samples", num_samples, 1)
    check.choice(op, "weighting", weighting, ("sqrt_mass", "uniform"))
    shape = (attentions.shape[0], num_samples)
    if uniforms is None:
        # Not torch.rand: torch.compile traces it with a generator only for a fixed batch size.
        uniforms = torch.empty(shape, device=attentions.device).uniform_(generator=generator)
    check.tensor(op, "uniforms", uniforms, "B num_samples")
    check.same_device(op, ("attentions", attentions), ("uniforms", uniforms))
    if tuple(uniforms.shape) != shape:
        rule = f"of shape ({shape[0]}, {shape[1]})"
        raise check.wrong_value(op, "uniforms", rule, check.shape_text(uniforms))
    chosen = resolve(op, backend, attentions.device.type, attentions.dtype)
    return ops.sample_attention.forward(attentions.detach(), uniforms, weighting, chosen)


def attention_boxes(
    maps: Tensor,
    image_size: tuple[int, int],
    *,
    threshold: float | Sequence[float] | Tensor,
    padding: float,
    rule: str = "paper",
    align_corners: bool = True,
    validate: bool = False,
    backend: str = "auto",
) -> Tensor:
    """The box around what each map attends to (section 3.2, eq. 6; section 3.3).

    up = the map resized to (H,W), bilinear, never stored by the kernels.

    rule "paper": T = threshold * max(up); rows and columns where up >= T; padded by
    int(padding*H) rows and int(padding*W) columns; the start is clamped to 0, the end is
    min(last + pad, H), so that the last row is outside when pad is 0.
    rule "guyuc" (WS-DAN.PyTorch, CAL): T = threshold * max(map); start = max(int(first -
    padding*H), 0), end = min(int(last + padding*H), H).

    A box is never smaller than 1x1. A map that holds a NaN or an infinity, whose peak is not
    positive, or with no position at or above T gives the whole image.

    Args:
        maps: (B,h,w) floating point; not differentiable. Half precision is computed in float32.
        image_size: (H,W) in pixels, integers from 1 to 2^24.
        threshold: a float in [0,1] or a (B,) tensor for one box an image; a sequence of T floats
            or a (B,T) tensor for T boxes an image.
        padding: share of the image's side, at least 0.
        rule: "paper" or "guyuc".
        align_corners: of the resize of the map.
        validate: raise instead of giving the whole image (costs a host synchronisation).

    Returns:
        (B,4) or (B,T,4) int32, x1 y1 x2 y2, half-open.

    Raises:
        TypeError, ValueError: for a wrong argument; with validate=True also for the first such map.
    """
    op = "attention_boxes"
    _check_maps(op, "maps", maps)
    height, width = check.image_size(op, "image_size", image_size)
    check.number(op, "padding", padding, 0.0)
    check.choice(op, "rule", rule, RULES)
    check.flag(op, "align_corners", align_corners)
    thresholds, single = _thresholds(op, "threshold", threshold, maps)
    maps = maps.detach()
    if validate:
        sample = ops.attention_boxes.first_unreached(
            maps, thresholds, height, width, rule, align_corners
        )
        if sample is not None:
            rule = "finite, with a position at or above its threshold"
            raise check.wrong_value(op, f"maps[{sample}]", rule, "a map without one")
    chosen = resolve(op, backend, maps.device.type, maps.dtype)
    padding = min(float(padding), 1.0)  # 1 reaches both edges; much more overflows 64 bits
    boxes = ops.attention_boxes.forward(
        maps, thresholds, height, width, padding, rule, align_corners, chosen
    )
    return boxes.squeeze(1) if single else boxes


def crop_resize(
    images: Tensor,
    boxes: Tensor,
    size: tuple[int, int] | None = None,
    *,
    align_corners: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Cut one box out of every image and resize it, bilinear (section 3.2).

    Differentiable in images.

    Args:
        images: (B,C,H,W) floating point or uint8, any strides.
        boxes: (B,4) int32 or int64, x1 y1 x2 y2, half-open, in pixels. A box is first moved inside
            the image (x1 to [0,W-1], x2 to [x1+1,W], likewise y), so none is empty.
        size: (height, width) of the result; None keeps (H,W).
        align_corners: as in torch.nn.functional.interpolate.

    Returns:
        (B,C,*size) of the images' dtype, computed in float32 (float64 stays float64), uint8
        rounded to nearest, ties to even. A NaN or an infinity spreads as in
        torch.nn.functional.interpolate: to every pixel that has it among its four neighbours, also
        with weight 0; along an axis that keeps its length a pixel has no other neighbour.

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
    """
    op = "crop_resize"
    check.tensor(op, "images", images, "B C H W", check.IMAGES)
    check.not_empty(op, "images", images, (1, 2, 3))
    check.tensor(op, "boxes", boxes, "B 4", check.INTEGER)
    check.same_batch(op, ("images", images), ("boxes", boxes))
    check.same_device(op, ("images", images), ("boxes", boxes))
    if boxes.shape[1] != 4:
        raise check.wrong_value(op, "boxes", "of shape (B, 4)", check.shape_text(boxes))
    height, width = check.image_size(op, "size", images.shape[2:] if size is None else size)
    check.flag(op, "align_corners", align_corners)
    chosen = resolve(op, backend, images.device.type, images.dtype)
    return ops.crop_resize.forward(images, boxes, height, width, align_corners, chosen)


def attention_swap(
    images: Tensor, boxes: Tensor, partners: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Put the contents of another image's box into each image's own box (arXiv:2605.18700, CALMix).

    With p = partners[b], box b of image b holds box p of image p, resized to it, bilinear with
    align_corners=True; the rest of image b is as it was. p = b leaves the image. Two images of a
    class exchange their boxes with partners [1, 0]. Differentiable in images.

    Args:
        images: (B,C,H,W) floating point or uint8, any strides.
        boxes: (B,4) int32 or int64, x1 y1 x2 y2, half-open, in pixels; moved inside the image as in
            crop_resize, such as those of attention_boxes.
        partners: (B,) int64 or int32 in [0,B); an image may be the partner of several. On the CPU
            the range is checked; on a GPU that would wait for the device: there one out of range
            leaves the image (cuda) or stops the device with an assertion (reference).

    Returns:
        (B,C,H,W) of the images' dtype, computed in float32 (float64 stays float64), uint8 rounded
        to nearest, ties to even. A NaN or an infinity spreads as in crop_resize, inside the boxes.

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
    """
    op = "attention_swap"
    check.tensor(op, "images", images, "B C H W", check.IMAGES)
    check.not_empty(op, "images", images, (1, 2, 3))
    ops.crop_resize.check_boxes(op, ("images", images), boxes)
    ops.attention_swap.check_partners(op, ("images", images), partners)
    chosen = resolve(op, backend, images.device.type, images.dtype)
    return ops.attention_swap.forward(images, boxes, partners.to(torch.int64), chosen)


def attention_drop(
    images: Tensor,
    maps: Tensor,
    *,
    threshold: float | Tensor,
    rule: str = "paper",
    align_corners: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Erase what each map attends to: images * [up < T], T as in attention_boxes (eq. 7-8).

    Differentiable in images. A map that holds a NaN or an infinity or whose peak is not positive
    leaves its image untouched (the published code returns a black image for a map of zeros).

    Args:
        images: (B,C,H,W) floating point or uint8.
        maps: (B,h,w) floating point, on the same device.
        threshold: a float in [0,1] or a (B,) tensor.
        rule: "paper" or "guyuc".
        align_corners: of the resize of the map.

    Returns:
        (B,C,H,W) of the images' dtype.

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
    """
    op = "attention_drop"
    thresholds = check_view(op, images, maps, threshold, rule, align_corners)
    chosen = resolve(op, backend, images.device.type, images.dtype)
    return ops.attention_drop.forward(
        images, maps.detach(), thresholds, rule, align_corners, chosen
    )


def check_view(
    op: str,
    images: Tensor,
    maps: Tensor,
    threshold: float | Tensor,
    rule: str,
    align_corners: bool,
    *,
    prefix: str = "",
) -> Tensor:
    """Check the arguments of a view by one map an image, for `op`; return the thresholds, (B,).

    prefix: of the arguments' names "maps" and "threshold".
    """
    map_name, threshold_name = f"{prefix}maps", f"{prefix}threshold"
    check.tensor(op, "images", images, "B C H W", check.IMAGES)
    check.not_empty(op, "images", images, (1, 2, 3))
    _check_maps(op, map_name, maps)
    check.same_batch(op, ("images", images), (map_name, maps))
    check.same_device(op, ("images", images), (map_name, maps))
    check.choice(op, "rule", rule, RULES)
    check.flag(op, "align_corners", align_corners)
    thresholds, single = _thresholds(op, threshold_name, threshold, maps)
    if not single:
        raise check.wrong_value(op, threshold_name, "one number per image", repr(threshold))
    return thresholds.squeeze(1)


def _check_maps(op: str, name: str, maps: Tensor) -> None:
    check.tensor(op, name, maps, "B h w")
    check.not_empty(op, name, maps, (1, 2))


def _thresholds(
    op: str, name: str, value: float | Sequence[float] | Tensor, maps: Tensor
) -> tuple[Tensor, bool]:
    """Thresholds as (B,T) in the dtype the maps are computed in, and whether T was left out."""
    dtype = accumulation_dtype(maps.dtype)
    batch = maps.shape[0]
    if isinstance(value, Tensor):
        if value.dim() not in (1, 2) or value.shape[0] != batch:
            rule = f"a float, or a tensor of shape (B,) or (B, T) with B = {batch}"
            raise check.wrong_value(op, name, rule, f"shape {check.shape_text(value)}")
        if not value.dtype.is_floating_point:
            raise check.wrong_type(op, name, "floating point", str(value.dtype))
        check.same_device(op, ("maps", maps), (name, value))
        value = value.detach().to(dtype)
        return (value[:, None], True) if value.dim() == 1 else (value, False)
    single = not isinstance(value, Sequence) or isinstance(value, str)
    numbers = (value,) if single else tuple(value)
    for number in numbers:
        check.number(op, name, number, 0.0, 1.0)
    if not numbers:
        raise check.wrong_value(op, name, "at least one number", repr(value))
    columns = [torch.full((batch, 1), float(n), dtype=dtype, device=maps.device) for n in numbers]
    return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1), single
