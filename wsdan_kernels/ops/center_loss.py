"""center_loss and update_centers_: schemas, kernels, fake kernels and autograd.

Two ops, because an op that writes to its argument cannot carry an autograd formula.
"""

import torch

from wsdan_kernels import _native
from wsdan_kernels.ops._declare import Kernel, declare, triton_kernel
from wsdan_kernels.reference import center_loss as reference

_FORWARD = "center_loss(Tensor features, Tensor centers, Tensor labels)"
_UPDATE = (
    "update_centers_(Tensor(a!) centers, Tensor features, Tensor labels, float beta, "
    "str duplicates)"
)


def _fake(features, *rest):
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    difference = features.new_empty(features.shape, dtype=dtype)
    return difference.new_empty(()), difference


def _fake_update(*arguments):
    return ()


KERNELS = {
    "reference": Kernel(reference.forward),
    "cpu": Kernel(_native.kernel(_FORWARD, 2, _fake), devices=("cpu",)),
    "triton": triton_kernel("center_loss", "forward", _fake),
}
UPDATE_KERNELS = {
    "reference": Kernel(reference.update),
    "cpu": Kernel(_native.kernel(_UPDATE, 0, _fake_update), devices=("cpu",)),
    "triton": triton_kernel("center_loss", "update", _fake_update),
}


def _setup_context(ctx, inputs, output):
    # The difference, not the centers: those change in place before the backward pass runs.
    ctx.dtype = inputs[0].dtype
    ctx.set_materialize_grads(False)  # else zeros (B,D) are made for the difference's gradient
    ctx.save_for_backward(output[1])


def _backward(ctx, grad_loss, grad_difference):
    (difference,) = ctx.saved_tensors
    grad = grad_difference  # where the gradient below is itself differentiated
    if grad_loss is not None:
        grad = grad_loss * (2 / max(difference.shape[0], 1)) * difference
        grad = grad if grad_difference is None else grad + grad_difference
    return None if grad is None else grad.to(ctx.dtype), None, None, None


forward = declare(
    f"{_FORWARD[:-1]}, str backend) -> (Tensor, Tensor)",
    KERNELS,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)
update = declare(f"{_UPDATE[:-1]}, str backend) -> ()", UPDATE_KERNELS, lambda *arguments: None)
