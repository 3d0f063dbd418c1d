"""Bilinear attention pooling (arXiv:1901.09891 section 3.1)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from wsdan_kernels import _checks as check
from wsdan_kernels import ops
from wsdan_kernels.backends import resolve

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
    Y = scale * S / max(||S||_2, 1e-12). Differentiable once, in reverse mode (torch.func's grad,
    jacrev and vmap too); at P = 0 the root's gradient is 0.

    Args:
        features: (B,C,h,w) float32, float64, bfloat16 or float16; any strides; B may be 0.
        attentions: (B,M,h',w') of the same dtype and device. Of another resolution than the
            features, they are first resized to it (bilinear, align_corners=True).
        reduce: "mean" over k, "sum", or "max" (its gradient goes to the lowest k among ties).
        signed_sqrt: False leaves S = P.
        normalize: the norm runs over (m,c) together ("all"), over c ("part"), or not at all (None).
        groups: with "all", the maps are normalised in this many equal groups along M: 2 for maps
            and counterfactual ones, concatenated, so that the features are read once.
        eps: inside the root, at least 0.
        scale: factor on the result (the paper's classifier takes 100).

    Returns:
        (B,M,C); float64 for float64 inputs, else float32. Accumulated in that dtype.

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
        NotImplementedError: for a second derivative, or forward mode (jvp, jacfwd).
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
    check.integer(op, "groups", groups, 1)
    if attentions.shape[1] % groups != 0 or (groups > 1 and normalize != "all"):
        rule = 'a divisor of M, and 1 unless normalize="all"'
        raise check.wrong_value(op, "groups", rule, f"{groups} for M = {attentions.shape[1]}")
    check.number(op, "eps", eps, 0.0)
    check.number(op, "scale", scale, -check.LARGEST)
    chosen = resolve(op, backend, features.device.type, features.dtype)
    size = features.shape[2:]
    if attentions.shape[2:] != size and chosen not in ops.bilinear_attention_pool.RESIZING:
        attentions = F.interpolate(attentions, size, mode="bilinear", align_corners=True)
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
        reduce: "mean" or "sum".
        signed_sqrt, normalize, eps, scale: see `bilinear_attention_pool`.

    Returns:
        pooled (B,M,C), float64 for float64 features, else float32; and the maps (B,M,h,w) in the
        dtype and memory format of the features.

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
    """
    op = "attend_and_pool"
    check.tensor(op, "features", features, "B C h w")
    check.not_empty(op, "features", features, (1, 2, 3))
    if isinstance(weight, Tensor) and weight.dim() == 4 and weight.shape[2:] == (1, 1):
        weight = weight.flatten(1)
    check.tensor(op, "weight", weight, "M C")
    check.not_empty(op, "weight", weight, (0,))
    if weight.shape[1] != features.shape[1]:
        rule = f"of {features.shape[1]} columns, the channels of features"
        raise check.wrong_value(op, "weight", rule, check.shape_text(weight))
    check.same_device(op, ("features", features), ("weight", weight))
    names = ("weight", "bias", "running_mean", "running_var")
    parts = [getattr(norm, name, None) for name in names]
    if any(part is None or part.shape != weight.shape[:1] for part in parts):
        rule = f"a BatchNorm2d({weight.shape[0]}), affine and with running statistics"
        raise check.wrong_value(op, "norm", rule, repr(norm))
    check.choice(op, "reduce", reduce, ("mean", "sum"))
    check.flag(op, "signed_sqrt", signed_sqrt)
    check.choice(op, "normalize", normalize, ("all", "part", None))
    check.number(op, "eps", eps, 0.0)
    check.number(op, "scale", scale, -check.LARGEST)
    for name, value in (("features", features), ("weight", weight)):
        check.no_tangent(op, name, value)
    chosen = resolve(op, backend, features.device.type, features.dtype)
    return ops.attend_and_pool.forward(
        features.detach(), weight.detach(), *(part.detach() for part in parts), norm.eps,
        reduce, signed_sqrt, normalize or "none", float(eps), float(scale), chosen,
    )  # fmt: skip
