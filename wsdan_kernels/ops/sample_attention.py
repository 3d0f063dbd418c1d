"""sample_attention: schema, kernels and fake kernel. The random numbers are an argument."""

import torch

from wsdan_kernels import _checks, _native
from wsdan_kernels.ops._declare import Kernel, declare, triton_kernel
from wsdan_kernels.reference import sample_attention as reference

_FORWARD = "sample_attention(Tensor attentions, Tensor uniforms, str weighting)"


def _fake(attentions, uniforms, *options):
    return uniforms.new_empty(uniforms.shape, dtype=torch.int64)


def _check(attentions, uniforms, weighting, backend):
    op = "sample_attention"
    _checks.tensor(op, "attentions", attentions, "B M h w")
    _checks.not_empty(op, "attentions", attentions, (1, 2, 3))
    _checks.tensor(op, "uniforms", uniforms, "B num_samples")
    _checks.same_batch(op, ("attentions", attentions), ("uniforms", uniforms))
    _checks.same_device(op, ("attentions", attentions), ("uniforms", uniforms))
    _checks.choice(op, "weighting", weighting, ("sqrt_mass", "uniform"))


KERNELS = {
    "reference": Kernel(reference.forward),
    "cpu": Kernel(_native.kernel(_FORWARD, 1, _fake), devices=("cpu",)),
    "triton": triton_kernel("sample_attention", "forward", _fake),
}
forward = declare(f"{_FORWARD} -> Tensor", KERNELS, _fake, check=_check, backward=None)
