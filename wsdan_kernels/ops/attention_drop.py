"""attention_drop: schema, kernels, fake kernel and autograd."""

from wsdan_kernels import _checks, _native
from wsdan_kernels.ops import attention_boxes
from wsdan_kernels.ops._declare import CUDA_IMAGES, Kernel, declare
from wsdan_kernels.reference import attention_drop as reference
from wsdan_kernels.reference._layout import empty_like

_FORWARD = (
    "attention_drop(Tensor images, Tensor maps, Tensor thresholds, str rule, bool align_corners)"
)


def _fake(images, *options):
    return empty_like(images)


def check_maps(op, images, maps, thresholds, rule, prefix=""):
    """What a view by one map and one threshold an image relies on, for `op`, of these."""
    attention_boxes.check_maps(op, maps, rule, f"{prefix}maps")
    _checks.tensor(op, f"{prefix}thresholds", thresholds, "B")
    for name, value in ((f"{prefix}maps", maps), (f"{prefix}thresholds", thresholds)):
        _checks.same_batch(op, ("images", images), (name, value))
        _checks.same_device(op, ("images", images), (name, value))


def check_images(op, name, images):
    _checks.tensor(op, name, images, "B C H W", _checks.IMAGES)
    _checks.not_empty(op, name, images, (1, 2, 3))


def _check(images, maps, thresholds, rule, *options):
    op = "attention_drop"
    check_images(op, "images", images)
    check_maps(op, images, maps, thresholds, rule)


_native_run = _native.kernel(_FORWARD, 1, _fake)
KERNELS = {
    "reference": Kernel(reference.forward),
    "cpu": Kernel(_native_run, devices=("cpu",)),
    "cuda": Kernel(_native_run, devices=("cuda",), dtypes=CUDA_IMAGES),
}


def _setup_context(ctx, inputs, output):
    _, maps, thresholds, *ctx.options = inputs
    ctx.save_for_backward(maps, thresholds)


def _backward(ctx, grad_output):
    # The operator is a diagonal of zeros and ones: it is its own transpose.
    grad_images = forward(grad_output, *ctx.saved_tensors, *ctx.options)
    return (grad_images, None, None, *[None] * len(ctx.options))


forward = declare(
    f"{_FORWARD} -> Tensor",
    KERNELS,
    _fake,
    check=_check,
    setup_context=_setup_context,
    backward=_backward,
)
