"""bilinear_attention_pool: schema, kernels, fake kernels and autograd."""

import torch

from wsdan_kernels import _checks, _native
from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.ops._declare import Kernel, declare, triton_kernel
from wsdan_kernels.reference import bilinear_attention_pool as reference
from wsdan_kernels.reference._layout import empty_like

_NAME = "bilinear_attention_pool"
_LAYOUTS = "contiguous and channels_last are read in place, other strides from a copy"
_OPTIONS = "str reduce, bool signed_sqrt, str normalize, int groups, float eps, float scale"
_FORWARD = f"bilinear_attention_pool(Tensor features, Tensor attentions, {_OPTIONS})"
_BACKWARD = (
    "bilinear_attention_pool_backward(Tensor grad_output, Tensor features, Tensor attentions, "
    f"Tensor pooled, Tensor index, {_OPTIONS})"
)


def _pooled(features, attentions):
    """Shape and dtype of the result."""
    shape = (features.shape[0], attentions.shape[1], features.shape[1])
    return shape, accumulation_dtype(features.dtype)


def _index(features, shape, reduce):
    """Shape and dtype of the positions of the maxima."""
    positions = features.shape[2] * features.shape[3]
    return shape if reduce == "max" else (0,), reference.index_dtype(positions)


def _fake(features, attentions, reduce, *options):
    shape, dtype = _pooled(features, attentions)
    output = features.new_empty(shape, dtype=dtype)
    index_shape, index_dtype = _index(features, shape, reduce)
    return output, torch.empty_like(output), features.new_empty(index_shape, dtype=index_dtype)


def _fake_backward(grad_output, features, attentions, *rest):
    return empty_like(features), attentions.new_empty(attentions.shape)


# Backends that take maps (B,M,h',w') of any size, and resize them and their gradient.
RESIZING = ("cpu",)


def _check(features, attentions, reduce, signed_sqrt, normalize, groups, eps, scale, backend):
    _checks.tensor(_NAME, "features", features, "B C h w")
    _checks.tensor(_NAME, "attentions", attentions, "B M h w")
    _checks.not_empty(_NAME, "features", features, (1, 2, 3))
    _checks.not_empty(_NAME, "attentions", attentions, (1, 2, 3))
    _checks.like(_NAME, ("features", features), ("attentions", attentions))
    _checks.choice(_NAME, "reduce", reduce, ("mean", "sum", "max"))
    _checks.choice(_NAME, "normalize", normalize, ("all", "part", "none"))
    maps = attentions.shape[1]
    if groups < 1 or maps % groups != 0 or (groups > 1 and normalize != "all"):
        rule = 'a divisor of M, and 1 unless normalize="all"'
        raise _checks.wrong_value(_NAME, "groups", rule, f"{groups} for M = {maps}")
    if backend not in RESIZING and attentions.shape[2:] != features.shape[2:]:
        rule = f"of the size of features {_checks.shape_text(features)} for {backend}"
        raise _checks.wrong_value(_NAME, "attentions", rule, _checks.shape_text(attentions))


def _check_backward(grad_output, features, attentions, pooled, index, reduce, *options):
    _check(features, attentions, reduce, *options)
    shape, dtype = _pooled(features, attentions)
    _checks.exactly(_NAME, "grad_output", grad_output, shape, dtype, features)
    _checks.exactly(_NAME, "pooled", pooled, shape, dtype, features)
    _checks.exactly(_NAME, "index", index, *_index(features, shape, reduce), features)


KERNELS = {
    "reference": Kernel(reference.forward),
    "cpu": Kernel(_native.kernel(_FORWARD, 3, _fake), devices=("cpu",)),
    "triton": triton_kernel(_NAME, "forward", _fake, _LAYOUTS),
}
BACKWARD_KERNELS = {
    "reference": Kernel(reference.backward),
    "cpu": Kernel(_native.kernel(_BACKWARD, 2, _fake_backward), devices=("cpu",)),
    "triton": triton_kernel(_NAME, "backward", _fake_backward),
}


def _setup_context(ctx, inputs, output):
    features, attentions, *ctx.options = inputs
    _, pooled, index = output
    ctx.mark_non_differentiable(pooled, index)
    ctx.set_materialize_grads(False)  # else zeros (B,M,C) are made for both
    ctx.save_for_backward(features, attentions, pooled, index)


def _backward(ctx, grad_output, grad_pooled, grad_index):
    if grad_output is None:
        return (None,) * (2 + len(ctx.options))
    grads = backward(grad_output, *ctx.saved_tensors, *ctx.options)
    return (*grads, *[None] * len(ctx.options))


def _refuse(ctx, *grads):
    # Otherwise torch would take the second derivatives as 0, with a warning.
    raise NotImplementedError(f"{_NAME}: has no second derivatives")


backward = declare(
    f"{_BACKWARD} -> (Tensor, Tensor)",
    BACKWARD_KERNELS,
    _fake_backward,
    check=_check_backward,
    backward=_refuse,
    trusted=True,
)
forward = declare(
    f"{_FORWARD} -> (Tensor, Tensor, Tensor)",
    KERNELS,
    _fake,
    check=_check,
    setup_context=_setup_context,
    backward=_backward,
    trusted=True,
)
