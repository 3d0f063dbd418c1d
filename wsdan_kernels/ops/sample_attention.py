"""sample_attention: schema, kernels and fake kernel. The random numbers are an argument."""

import torch

from wsdan_kernels.ops._declare import Kernel, declare
from wsdan_kernels.reference import sample_attention as reference

KERNELS = {"reference": Kernel(reference.forward)}


def _fake(attentions, uniforms, *options):
    return uniforms.new_empty(uniforms.shape, dtype=torch.int64)


forward = declare(
    "sample_attention(Tensor attentions, Tensor uniforms, str weighting, str backend) -> Tensor",
    KERNELS,
    _fake,
)
