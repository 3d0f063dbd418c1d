"""attention_drop: schema, kernels, fake kernel and autograd."""

from wsdan_kernels import _native
from wsdan_kernels.ops._declare import CUDA_IMAGES, Kernel, declare
from wsdan_kernels.reference import attention_drop as reference
from wsdan_kernels.reference._layout import empty_like

_FORWARD = (
    "attention_drop(Tensor images, Tensor maps, Tensor thresholds, str rule, bool align_corners)"
)


def _fake(images, *options):
    return empty_like(images)


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
    setup_context=_setup_context,
    backward=_backward,
)
