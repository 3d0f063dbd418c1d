"""crop_resize: schema, kernels, fake kernels and autograd."""

from wsdan_kernels.ops._declare import Kernel, declare
from wsdan_kernels.reference import crop_resize as reference

_OPTIONS = "SymInt height, SymInt width, bool align_corners, str backend"
KERNELS = {"reference": Kernel(reference.forward)}
BACKWARD_KERNELS = {"reference": Kernel(reference.backward)}


def _fake(images, boxes, height, width, *options):
    return images.new_empty((*images.shape[:2], height, width))


def _setup_context(ctx, inputs, output):
    images, boxes, _, _, *ctx.options = inputs
    ctx.image_size = images.shape[2:]
    ctx.save_for_backward(boxes)


def _backward(ctx, grad_output):
    grad_images = backward(grad_output, *ctx.saved_tensors, *ctx.image_size, *ctx.options)
    return grad_images, None, None, None, None, None


backward = declare(
    f"crop_resize_backward(Tensor grad_output, Tensor boxes, {_OPTIONS}) -> Tensor",
    BACKWARD_KERNELS,
    _fake,
)
forward = declare(
    f"crop_resize(Tensor images, Tensor boxes, {_OPTIONS}) -> Tensor",
    KERNELS,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)
