"""center_loss: schema, kernels, fake kernel and autograd."""

from wsdan_kernels import _native
from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.ops._declare import Kernel, declare, triton_kernel
from wsdan_kernels.reference import center_loss as reference

_FORWARD = "center_loss(Tensor features, Tensor centers, Tensor labels)"


def _fake(features, *rest):
    dtype = accumulation_dtype(features.dtype)
    difference = features.new_empty(features.shape, dtype=dtype)
    return difference.new_empty(()), difference


KERNELS = {
    "reference": Kernel(reference.forward),
    "cpu": Kernel(_native.kernel(_FORWARD, 2, _fake), devices=("cpu",)),
    "triton": triton_kernel("center_loss", "forward", _fake),
}


def _setup_context(ctx, inputs, output):
    # Saves the difference: the centers change in place before the backward pass.
    ctx.dtype = inputs[0].dtype
    ctx.set_materialize_grads(False)  # no zeros (B,D) for the difference's gradient
    ctx.save_for_backward(output[1])


def _backward(ctx, grad_loss, grad_difference):
    (difference,) = ctx.saved_tensors
    grad = grad_difference  # not None only in a second derivative
    if grad_loss is not None:
        grad = grad_loss * (2 / max(difference.shape[0], 1)) * difference
        grad = grad if grad_difference is None else grad + grad_difference
    return None if grad is None else grad.to(ctx.dtype), None, None, None


forward = declare(
    f"{_FORWARD} -> (Tensor, Tensor)",
    KERNELS,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)
