"""center_loss: schema, kernels, fake kernel and autograd."""

import torch

from wsdan_kernels import _checks, _native
from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.ops._declare import Kernel, declare, triton_kernel
from wsdan_kernels.reference import center_loss as reference

_FORWARD = "center_loss(Tensor features, Tensor centers, Tensor labels)"


def _fake(features, *rest):
    dtype = accumulation_dtype(features.dtype)
    difference = features.new_empty(features.shape, dtype=dtype)
    return difference.new_empty(()), difference


def check_centers(op, features, centers, labels, backend):
    """What both operators on feature centers rely on."""
    _checks.tensor(op, "features", features, "B D")
    _checks.tensor(op, "centers", centers, "N D")
    _checks.tensor(op, "labels", labels, "B", (torch.int64,))
    _checks.not_empty(op, "centers", centers, (0, 1))
    _checks.like(op, ("features", features), ("centers", centers), batch=False)
    _checks.same_batch(op, ("features", features), ("labels", labels))
    _checks.same_device(op, ("features", features), ("labels", labels))
    if features.shape[1] != centers.shape[1]:
        rule = f"of the width of centers {_checks.shape_text(centers)}"
        raise _checks.wrong_value(op, "features", rule, _checks.shape_text(features))
    if backend == "reference":  # torch counts negative ones from the end; the others check
        _checks.index_range(op, "labels", labels, centers.shape[0])


def _check(features, centers, labels, backend):
    check_centers("center_loss", features, centers, labels, backend)


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
    check=_check,
    setup_context=_setup_context,
    backward=_backward,
    batched=False,
)
