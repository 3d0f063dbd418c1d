"""attention_crop_drop: crop_resize to the images' size and attention_drop of the same images.

One op, so that a kernel can read the images once for both.
"""

import torch

from wsdan_kernels import _native
from wsdan_kernels.ops import attention_drop, crop_resize
from wsdan_kernels.ops._declare import CUDA_IMAGES, Kernel, declare
from wsdan_kernels.reference import attention_crop_drop as reference
from wsdan_kernels.reference._layout import empty_like

_FORWARD = (
    "attention_crop_drop(Tensor images, Tensor boxes, Tensor maps, Tensor thresholds, str rule, "
    "bool align_corners)"
)


def _fake(images, *options):
    return empty_like(images), empty_like(images)


def _check(images, boxes, maps, thresholds, rule, *options):
    op = "attention_crop_drop"
    attention_drop.check_drop(op, images, maps, thresholds, rule)
    crop_resize.check_boxes(op, ("images", images), boxes, (torch.int32,))


_native_run = _native.kernel(_FORWARD, 2, _fake)
KERNELS = {
    "reference": Kernel(reference.forward),
    "cpu": Kernel(_native_run, devices=("cpu",)),
    "cuda": Kernel(_native_run, devices=("cuda",), dtypes=CUDA_IMAGES),
}


def _setup_context(ctx, inputs, output):
    images, boxes, maps, thresholds, *ctx.options = inputs
    ctx.image_size = images.shape[2:]
    ctx.save_for_backward(boxes, maps, thresholds)


def _backward(ctx, grad_crops, grad_drops):
    boxes, maps, thresholds = ctx.saved_tensors
    backend = ctx.options[-1]
    grad_images = attention_drop.forward(grad_drops, maps, thresholds, *ctx.options)
    grad_images = grad_images + crop_resize.backward(
        grad_crops, boxes, *ctx.image_size, True, backend
    )
    return (grad_images, None, None, None, *[None] * len(ctx.options))


forward = declare(
    f"{_FORWARD} -> (Tensor, Tensor)",
    KERNELS,
    _fake,
    check=_check,
    setup_context=_setup_context,
    backward=_backward,
)
