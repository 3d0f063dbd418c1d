"""attend_and_pool: schema, kernels and fake kernel. For inference: it carries no gradient."""

import torch

from wsdan_kernels.ops import bilinear_attention_pool as pool
from wsdan_kernels.ops._declare import Kernel, declare, triton_kernel
from wsdan_kernels.reference import attend_and_pool as reference
from wsdan_kernels.reference._layout import memory_format
from wsdan_kernels.reference.bilinear_attention_pool import accumulation_dtype

_FORWARD = (
    "attend_and_pool(Tensor features, Tensor weight, Tensor gamma, Tensor beta, Tensor mean, "
    "Tensor variance, float bn_eps, str reduce, bool signed_sqrt, str normalize, float eps, "
    "float scale)"
)


def _fake(features, weight, *rest):
    batch, channels, height, width = features.shape
    maps = weight.shape[0]
    dtype = accumulation_dtype(features.dtype)
    output = features.new_empty((batch, maps, channels), dtype=dtype)
    attentions = torch.empty(
        (batch, maps, height, width),
        dtype=features.dtype,
        device=features.device,
        memory_format=memory_format(features),
    )
    return output, attentions


def _reference(features, *arguments):
    output, attentions = reference.forward(features, *arguments)
    return output, attentions.contiguous(memory_format=memory_format(features))


def _two_steps(features, weight, gamma, beta, mean, variance, bn_eps, *options):
    """On the CPU torch's convolution, then the C++ pooling."""
    attentions = reference.attend(features, weight, gamma, beta, mean, variance, bn_eps)
    attentions = attentions.contiguous(memory_format=memory_format(features))
    reduce, signed_sqrt, normalize, eps, scale = options
    pooled = pool.KERNELS["cpu"].run(
        features, attentions, reduce, signed_sqrt, normalize, 1, eps, scale
    )
    return pooled[0], attentions


KERNELS = {
    "reference": Kernel(_reference),
    "cpu": Kernel(_two_steps, devices=("cpu",)),
    "triton": triton_kernel("attend_and_pool", "forward", _fake, pool.KERNELS["triton"].note),
}
forward = declare(f"{_FORWARD[:-1]}, str backend) -> (Tensor, Tensor)", KERNELS, _fake)
