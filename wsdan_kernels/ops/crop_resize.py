"""crop_resize: schema, kernels, fake kernels and autograd."""

import torch

from wsdan_kernels import _checks, _native
from wsdan_kernels.ops import attention_drop
from wsdan_kernels.ops._declare import CUDA_IMAGES, Kernel, declare
from wsdan_kernels.reference import crop_resize as reference
from wsdan_kernels.reference._layout import memory_format

_OPTIONS = "SymInt height, SymInt width, bool align_corners"
_FORWARD = f"crop_resize(Tensor images, Tensor boxes, {_OPTIONS})"
_BACKWARD = f"crop_resize_backward(Tensor grad_output, Tensor boxes, {_OPTIONS})"


def _fake(images, boxes, height, width, *options):
    return torch.empty(
        (*images.shape[:2], height, width),
        dtype=images.dtype,
        device=images.device,
        memory_format=memory_format(images),
    )


def _check(images, boxes, height, width, *options):
    op = "crop_resize"
    attention_drop.check_images(op, "images", images)
    check_boxes(op, ("images", images), boxes)
    _checks.image_size(op, "size", (height, width))


def check_boxes(op, images, boxes):
    """images: the name of the argument, and the tensor."""
    _checks.tensor(op, "boxes", boxes, "B 4", _checks.INTEGER)
    _checks.same_batch(op, images, ("boxes", boxes))
    _checks.same_device(op, images, ("boxes", boxes))
    if boxes.shape[1] != 4:
        raise _checks.wrong_value(op, "boxes", "of shape (B, 4)", _checks.shape_text(boxes))


def int32_boxes(boxes):
    """Boxes as the int32 that native kernels take; clamped, which moves none into an image."""
    limits = torch.iinfo(torch.int32)
    return boxes if boxes.dtype == torch.int32 else boxes.clamp(limits.min, limits.max).int()


def native_kernel(schema, fake):
    """The native kernel of an operator whose first arguments are images and boxes."""
    run = _native.kernel(schema, 1, fake)
    return lambda images, boxes, *rest: run(images, int32_boxes(boxes), *rest)


_native_forward, _native_backward = native_kernel(_FORWARD, _fake), native_kernel(_BACKWARD, _fake)
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


def _setup_context(ctx, inputs, output):
    resized, boxes, _, _, *ctx.options = inputs
    ctx.size = resized.shape[2:]
    ctx.save_for_backward(boxes)


def _backward(ctx, grad_output):
    grad_images = backward(grad_output, *ctx.saved_tensors, *ctx.size, *ctx.options)
    return grad_images, None, None, None, None, None


def _backward_of_backward(ctx, grad_images):
    # The operator is linear, and this is the transpose of its transpose.
    grad_output = forward(grad_images, *ctx.saved_tensors, *ctx.size, *ctx.options)
    return grad_output, None, None, None, None, None


backward = declare(
    f"{_BACKWARD} -> Tensor",
    BACKWARD_KERNELS,
    _fake,
    check=_check,
    setup_context=_setup_context,
    backward=_backward_of_backward,
)
forward = declare(
    f"{_FORWARD} -> Tensor",
    KERNELS,
    _fake,
    check=_check,
    setup_context=_setup_context,
    backward=_backward,
)
