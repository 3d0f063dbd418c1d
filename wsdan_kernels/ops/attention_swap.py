"""attention_swap: schema, kernels, fake kernel and autograd."""

import torch

from wsdan_kernels import _checks
from wsdan_kernels.ops import attention_drop, crop_resize
from wsdan_kernels.ops._declare import CUDA_IMAGES, Kernel, declare
from wsdan_kernels.reference import attention_swap as reference
from wsdan_kernels.reference._layout import empty_like

_FORWARD = "attention_swap(Tensor images, Tensor boxes, Tensor partners)"
_BACKWARD = "attention_swap_backward(Tensor grad_output, Tensor boxes, Tensor partners)"


def _fake(images, *rest):
    return empty_like(images)


def _check(images, boxes, partners, *backend):
    op = "attention_swap"
    attention_drop.check_images(op, "images", images)
    crop_resize.check_boxes(op, ("images", images), boxes)
    check_partners(op, ("images", images), partners, (torch.int64,))


def check_partners(op, images, partners, dtypes=_checks.INTEGER):
    """images: the name of the argument, and the tensor."""
    _checks.tensor(op, "partners", partners, "B", dtypes)
    _checks.same_batch(op, images, ("partners", partners))
    _checks.same_device(op, images, ("partners", partners))
    _checks.index_range(op, "partners", partners, images[1].shape[0])


_native_forward = crop_resize.native_kernel(_FORWARD, _fake)
_native_backward = crop_resize.native_kernel(_BACKWARD, _fake)
KERNELS = {
    "reference": Kernel(reference.forward),
    "cpu": Kernel(_native_forward, devices=("cpu",)),
    "cuda": Kernel(_native_forward, devices=("cuda",), dtypes=CUDA_IMAGES),
}
BACKWARD_KERNELS = {
    "reference": Kernel(reference.backward),
    "cpu": Kernel(_native_backward, devices=("cpu",)),
    "cuda": Kernel(_native_backward, devices=("cuda",), dtypes=CUDA_IMAGES),
}


def _moved(arguments, count):
    """The partners of `count` batches in one: each batch's are its own."""
    images, boxes, partners, backend = arguments
    batch = partners.shape[0] // count
    first = batch * torch.arange(count, device=partners.device)
    return images, boxes, partners + first.repeat_interleave(batch), backend


def _setup_context(ctx, inputs, output):
    _, *saved, _ = inputs
    ctx.save_for_backward(*saved)
    ctx.backend = inputs[-1]


def _backward(ctx, grad_output):
    return backward(grad_output, *ctx.saved_tensors, ctx.backend), None, None, None


def _backward_of_backward(ctx, grad_images):
    # The operator is linear, and this is the transpose of its transpose.
    return forward(grad_images, *ctx.saved_tensors, ctx.backend), None, None, None


backward = declare(
    f"{_BACKWARD} -> Tensor",
    BACKWARD_KERNELS,
    _fake,
    check=_check,
    setup_context=_setup_context,
    backward=_backward_of_backward,
    batched=_moved,
)
forward = declare(
    f"{_FORWARD} -> Tensor",
    KERNELS,
    _fake,
    check=_check,
    setup_context=_setup_context,
    backward=_backward,
    batched=_moved,
)
