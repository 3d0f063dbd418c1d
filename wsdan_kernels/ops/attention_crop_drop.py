"""attention_crop_drop: the boxes of one map an image, the crops by them, and the drops by another.

One op, so that a kernel can look through both maps at once and read the images once for both views.
"""

import torch

from wsdan_kernels import _checks, _native
from wsdan_kernels.ops import attention_drop, crop_resize
from wsdan_kernels.ops._declare import CUDA_IMAGES, Kernel, declare
from wsdan_kernels.reference import attention_crop_drop as reference
from wsdan_kernels.reference._layout import empty_like

_FORWARD = (
    "attention_crop_drop(Tensor images, Tensor crop_maps, Tensor drop_maps, "
    "Tensor crop_thresholds, Tensor drop_thresholds, float padding, str rule, bool align_corners)"
)


def _fake(images, *options):
    boxes = images.new_empty((images.shape[0], 4), dtype=torch.int32)
    return empty_like(images), empty_like(images), boxes


def _check(images, crop_maps, drop_maps, crop_thresholds, drop_thresholds, padding, rule, *options):
    op = "attention_crop_drop"
    attention_drop.check_images(op, "images", images)
    attention_drop.check_maps(op, images, crop_maps, crop_thresholds, rule, "crop_")
    attention_drop.check_maps(op, images, drop_maps, drop_thresholds, rule, "drop_")
    _checks.number(op, "padding", padding, 0.0, 1.0)


_native_run = _native.kernel(_FORWARD, 3, _fake)
KERNELS = {
    "reference": Kernel(reference.forward),
    "cpu": Kernel(_native_run, devices=("cpu",)),
    "cuda": Kernel(_native_run, devices=("cuda",), dtypes=CUDA_IMAGES),
}


def _setup_context(ctx, inputs, output):
    images, _, drop_maps, _, drop_thresholds, _, *ctx.options = inputs
    boxes = output[2]
    ctx.mark_non_differentiable(boxes)
    ctx.image_size = images.shape[2:]
    ctx.save_for_backward(boxes, drop_maps, drop_thresholds)


def _backward(ctx, grad_crops, grad_drops, grad_boxes):
    boxes, drop_maps, drop_thresholds = ctx.saved_tensors
    backend = ctx.options[-1]
    grad_images = attention_drop.forward(grad_drops, drop_maps, drop_thresholds, *ctx.options)
    grad_images = grad_images + crop_resize.backward(
        grad_crops, boxes, *ctx.image_size, True, backend
    )
    return (grad_images, *[None] * (5 + len(ctx.options)))


forward = declare(
    f"{_FORWARD} -> (Tensor, Tensor, Tensor)",
    KERNELS,
    _fake,
    check=_check,
    setup_context=_setup_context,
    backward=_backward,
)
