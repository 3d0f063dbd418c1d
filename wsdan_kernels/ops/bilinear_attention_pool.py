"""bilinear_attention_pool: schema, kernels, fake kernels and autograd."""

import torch

from wsdan_kernels import _native
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


def _fake(features, attentions, reduce, *options):
    shape = (features.shape[0], attentions.shape[1], features.shape[1])
    dtype = accumulation_dtype(features.dtype)
    output = features.new_empty(shape, dtype=dtype)
    positions = features.shape[2] * features.shape[3]
    index = features.new_empty(
        shape if reduce == "max" else (0,), dtype=reference.index_dtype(positions)
    )
    return output, torch.empty_like(output), index


def _fake_backward(grad_output, features, attentions, *rest):
    return empty_like(features), attentions.new_empty(attentions.shape)


KERNELS = {
    "reference": Kernel(reference.forward),
    "cpu": Kernel(_native.kernel(_FORWARD, 3, _fake), devices=("cpu",)),
    "triton": triton_kernel(_NAME, "forward", _fake, _LAYOUTS),
}
# Backends that take maps (B,M,h',w') of any size, and resize them and their gradient.
RESIZING = ("cpu",)
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
    backward=_refuse,
)
forward = declare(
    f"{_FORWARD} -> (Tensor, Tensor, Tensor)",
    KERNELS,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)
