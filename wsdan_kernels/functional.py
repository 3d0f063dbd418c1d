"""The operators as functions: argument checks, choice of the backend, call of the op.

Alphabet: B batch, C feature channels, M attention maps, h w feature-map size, K = h*w, H W image
size, N classes, T thresholds. Equations: arXiv:1901.09891. Every function takes
backend="auto" | "reference" | "cpu" | "triton" | "cuda"; "auto" takes the fastest that can run
(see `wsdan_kernels.explain`), a backend asked for by name that cannot run raises
BackendUnavailableError with the reason.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsdan_kernels import _checks as check
from wsdan_kernels import ops
from wsdan_kernels.backends import resolve

RULES = ("paper", "guyuc")
REDUCTIONS = ("mean", "sum", "max")


def bilinear_attention_pool(
    features: Tensor,
    attentions: Tensor,
    *,
    reduce: str = "mean",
    signed_sqrt: bool = True,
    normalize: str | None = "all",
    groups: int = 1,
    eps: float = 1e-12,
    scale: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Pool the features under each attention map (eq. 2-4, with signed root and normalisation).

    P[b,m,c] = reduce over k of A[b,m,k] F[b,c,k];  S = sign(P) sqrt(|P| + eps), 0 where P = 0;
    Y = scale * S / max(||S||_2, 1e-12). Differentiable in both inputs; at P = 0 the gradient
    through the root is 0.

    Args:
        features: (B,C,h,w) float32, float64, bfloat16 or float16; any strides; B may be 0.
        attentions: (B,M,h',w') of the same dtype and device. Of another resolution than the
            features, they are first resized to it (bilinear, align_corners=True).
        reduce: "mean" over k, "sum", or "max" (its gradient goes to the lowest k among ties).
        signed_sqrt: False leaves S = P.
        normalize: the norm runs over (m,c) together ("all"), over c ("part"), or not at all (None).
        groups: with "all", the maps are normalised in this many equal groups along M. For
            counterfactual pooling, concatenate both sets of maps along M and use groups=2: the
            features are then read once.
        eps: >= 0, inside the root. scale: factor on the result (the paper's classifier takes 100).

    Returns:
        (B,M,C); float64 for float64 inputs, else float32. Accumulated in that dtype.

    Raises:
        TypeError, ValueError: naming argument, rule and what came.
    """
    op = "bilinear_attention_pool"
    check.tensor(op, "features", features, "B C h w")
    check.tensor(op, "attentions", attentions, "B M h w")
    check.not_empty(op, "features", features, (1, 2, 3))
    check.not_empty(op, "attentions", attentions, (1, 2, 3))
    check.same_batch(op, ("features", features), ("attentions", attentions))
    check.same_device(op, ("features", features), ("attentions", attentions))
    mixed = attentions.dtype != features.dtype
    if mixed and torch.is_autocast_enabled(features.device.type):
        attentions = attentions.to(features.dtype)
    check.same_dtype(op, ("features", features), ("attentions", attentions))
    check.choice(op, "reduce", reduce, REDUCTIONS)
    check.flag(op, "signed_sqrt", signed_sqrt)
    check.choice(op, "normalize", normalize, ("all", "part", None))
    check.number(op, "groups", groups, 1)
    if attentions.shape[1] % groups != 0 or (groups > 1 and normalize != "all"):
        rule = 'a divisor of M, and 1 unless normalize="all"'
        raise check.wrong_value(op, "groups", rule, f"{groups} for M = {attentions.shape[1]}")
    check.number(op, "eps", eps, 0.0)
    check.number(op, "scale", scale, -check.LARGEST)
    if attentions.shape[2:] != features.shape[2:]:
        size = features.shape[2:]
        attentions = F.interpolate(attentions, size, mode="bilinear", align_corners=True)
    chosen = resolve(op, backend, features.device.type, features.dtype)
    options = (reduce, signed_sqrt, normalize or "none", groups, float(eps), float(scale))
    return ops.bilinear_attention_pool.forward(features, attentions, *options, chosen)[0]


def attend_and_pool(
    features: Tensor,
    weight: Tensor,
    norm: torch.nn.BatchNorm2d,
    *,
    reduce: str = "mean",
    signed_sqrt: bool = True,
    normalize: str | None = "all",
    eps: float = 1e-12,
    scale: float = 1.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Attention maps (eq. 1) and the pooling under them in one pass over the features.

    A = relu(norm(weight F)), a 1x1 convolution and batch norm with its running statistics; then
    `bilinear_attention_pool(features, A)`. For inference: the results carry no gradient.

    Args:
        features: (B,C,h,w) float32, float64, bfloat16 or float16; B may be 0.
        weight: (M,C,1,1) or (M,C), of the convolution; used in the dtype of the features.
        norm: the BatchNorm2d(M) after it, affine, with running statistics.
        reduce: "mean" or "sum". signed_sqrt, normalize, eps, scale: see `bilinear_attention_pool`.

    Returns:
        pooled (B,M,C), float64 for float64 features, else float32; and the maps (B,M,h,w) in the
        dtype and memory format of the features.

    Raises:
        TypeError, ValueError: naming argument, rule and what came.
    """
    op = "attend_and_pool"
    check.tensor(op, "features", features, "B C h w")
    check.not_empty(op, "features", features, (1, 2, 3))
    if weight.dim() == 4 and weight.shape[2:] == (1, 1):
        weight = weight.flatten(1)
    check.tensor(op, "weight", weight, "M C")
    check.not_empty(op, "weight", weight, (0,))
    if weight.shape[1] != features.shape[1]:
        rule = f"of {features.shape[1]} columns, the channels of features"
        raise check.wrong_value(op, "weight", rule, check.shape_text(weight))
    check.same_device(op, ("features", features), ("weight", weight))
    parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    if any(part is None or part.shape != weight.shape[:1] for part in parts):
        rule = f"a BatchNorm2d({weight.shape[0]}), affine and with running statistics"
        raise check.wrong_value(op, "norm", rule, repr(norm))
    check.choice(op, "reduce", reduce, ("mean", "sum"))
    check.flag(op, "signed_sqrt", signed_sqrt)
    check.choice(op, "normalize", normalize, ("all", "part", None))
    check.number(op, "eps", eps, 0.0)
    check.number(op, "scale", scale, -check.LARGEST)
    chosen = resolve(op, backend, features.device.type, features.dtype)
    return ops.attend_and_pool.forward(
        features.detach(), weight.detach(), *(part.detach() for part in parts), norm.eps,
        reduce, signed_sqrt, normalize or "none", float(eps), float(scale), chosen,
    )  # fmt: skip


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
        num_samples: draws per image, >= 1.
        weighting: "sqrt_mass", or "uniform" for equal weights.
        generator: of the tensor's device; None is torch's default.
        uniforms: (B,num_samples) floating point in [0,1): the random numbers to use instead.

    Returns:
        (B,num_samples) int64 in [0,M).

    Raises:
        TypeError, ValueError: naming argument, rule and what came.
    """
    op = "sample_attention"
    check.tensor(op, "attentions", attentions, "B M h w")
    check.not_empty(op, "attentions", attentions, (1, 2, 3))
    check.number(op, "num_samples", num_samples, 1)
    check.choice(op, "weighting", weighting, ("sqrt_mass", "uniform"))
    shape = (attentions.shape[0], num_samples)
    if uniforms is None:
        uniforms = torch.rand(shape, device=attentions.device, generator=generator)
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
        image_size: (H,W) in pixels.
        threshold: a float in [0,1] or a (B,) tensor for one box an image; a sequence of T floats
            or a (B,T) tensor for T boxes an image.
        padding: share of the image's side, >= 0.
        validate: raise instead of giving the whole image (costs a host synchronisation).

    Returns:
        (B,4) or (B,T,4) int32: x1 y1 x2 y2, half-open.

    Raises:
        TypeError, ValueError: naming argument, rule and what came; ValueError naming the first
        such sample with validate=True.
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
    boxes = ops.attention_boxes.forward(
        maps, thresholds, height, width, float(padding), rule, align_corners, chosen
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
        images: (B,C,H,W) floating point, any strides.
        boxes: (B,4) int32 or int64, x1 y1 x2 y2, half-open, in pixels. A box is first moved inside
            the image (x1 to [0,W-1], x2 to [x1+1,W], likewise y), so none is empty.
        size: (height, width) of the result; None keeps (H,W).
        align_corners: as in torch.nn.functional.interpolate.

    Returns:
        (B,C,*size) of the images' dtype, computed in float32 (float64 stays float64).

    Raises:
        TypeError, ValueError: naming argument, rule and what came.
    """
    op = "crop_resize"
    check.tensor(op, "images", images, "B C H W")
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
        images: (B,C,H,W) floating point.
        maps: (B,h,w) floating point, on the same device.
        threshold: a float in [0,1] or a (B,) tensor.
        rule: "paper" or "guyuc"; align_corners: of the resize of the map.

    Returns:
        (B,C,H,W) of the images' dtype.

    Raises:
        TypeError, ValueError: naming argument, rule and what came.
    """
    op = "attention_drop"
    thresholds = check_drop(op, images, maps, threshold, rule, align_corners)
    chosen = resolve(op, backend, images.device.type, images.dtype)
    return ops.attention_drop.forward(
        images, maps.detach(), thresholds, rule, align_corners, chosen
    )


def center_loss(
    features: Tensor, centers: Tensor, labels: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Attention regularisation (eq. 5): mean over b of ||f_b - c_b||^2.

    c_b = centers[labels_b] / max(||centers[labels_b]||_2, 1e-12). Differentiable in features only.

    Args:
        features: (B,D) floating point; the pooled features, flattened.
        centers: (N,D) of the same dtype and device.
        labels: (B,) int64 or int32 in [0,N). On the CPU the range is checked; on a GPU that would
            wait for the device: there a label out of range makes the loss NaN (triton) or stops
            the device with an assertion (reference).

    Returns:
        Scalar, float64 for float64 inputs, else float32; 0 for an empty batch.

    Raises:
        TypeError, ValueError: naming argument, rule and what came.
    """
    op = "center_loss"
    _check_centers(op, features, centers, labels)
    chosen = resolve(op, backend, features.device.type, features.dtype)
    return ops.center_loss.forward(features, centers.detach(), labels.to(torch.int64), chosen)[0]


def update_centers_(
    centers: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    beta: float = 0.05,
    duplicates: str = "accumulate",
    backend: str = "auto",
) -> Tensor:
    """Move the feature centers, in place (eq. 5): centers[labels_b] += beta (f_b - c_b).

    c_b is the normalised center as in center_loss, read before any update. Deterministic.

    Args:
        centers: (N,D) floating point, written in place; must not require a gradient.
        features: (B,D) of the same dtype and device. labels: (B,) int64 or int32 in [0,N); on a
            GPU one out of range moves no center (triton), see center_loss.
        beta: in [0,1].
        duplicates: a label that occurs several times in the batch moves its center by the sum of
            the steps ("accumulate", the official code) or by their mean ("mean").

    Returns:
        centers.

    Raises:
        TypeError, ValueError: naming argument, rule and what came.
    """
    op = "update_centers_"
    _check_centers(op, features, centers, labels)
    check.number(op, "beta", beta, 0.0, 1.0)
    check.choice(op, "duplicates", duplicates, ("accumulate", "mean"))
    if centers.requires_grad:
        rule = "a buffer that does not require a gradient"
        raise check.wrong_value(op, "centers", rule, "requires_grad=True")
    chosen = resolve(op, backend, centers.device.type, centers.dtype)
    ops.center_loss.update(
        centers, features.detach(), labels.to(torch.int64), float(beta), duplicates, chosen
    )
    return centers


def check_drop(
    op: str,
    images: Tensor,
    maps: Tensor,
    threshold: float | Tensor,
    rule: str,
    align_corners: bool,
    *,
    map_name: str = "maps",
    threshold_name: str = "threshold",
) -> Tensor:
    """The checks of a drop's arguments, for `op`; returns the thresholds as a tensor (B,)."""
    check.tensor(op, "images", images, "B C H W")
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
    dtype = torch.float64 if maps.dtype == torch.float64 else torch.float32
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
    return torch.cat(columns, dim=1), single


def _check_centers(op: str, features: Tensor, centers: Tensor, labels: Tensor) -> None:
    check.tensor(op, "features", features, "B D")
    check.tensor(op, "centers", centers, "N D")
    check.tensor(op, "labels", labels, "B", check.INTEGER)
    check.not_empty(op, "centers", centers, (0, 1))
    check.same_dtype(op, ("features", features), ("centers", centers))
    check.same_device(op, ("features", features), ("centers", centers))
    check.same_device(op, ("features", features), ("labels", labels))
    check.same_batch(op, ("features", features), ("labels", labels))
    if features.shape[1] != centers.shape[1]:
        rule = f"of the width of centers {check.shape_text(centers)}"
        raise check.wrong_value(op, "features", rule, check.shape_text(features))
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or labels.numel() == 0:
        return
    numbers = labels.tolist()
    low, high = min(numbers), max(numbers)
    if low < 0 or high >= centers.shape[0]:
        rule = f"in [0, {centers.shape[0]})"
        raise check.wrong_value(op, "labels", rule, str(low if low < 0 else high))
