"""attend_and_pool: schema, kernels and fake kernel. For inference: it carries no gradient."""

from dataclasses import replace

import torch

from wsdan_kernels import _checks
from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.ops import bilinear_attention_pool as pool
from wsdan_kernels.ops._declare import Kernel, declare, triton_kernel
from wsdan_kernels.reference import attend_and_pool as reference
from wsdan_kernels.reference._layout import memory_format

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


_NAME = "attend_and_pool"


def _check(features, weight, gamma, beta, mean, variance, bn_eps, reduce, *options):
    _, normalize, *_ = options
    _checks.tensor(_NAME, "features", features, "B C h w")
    _checks.tensor(_NAME, "weight", weight, "M C")
    _checks.not_empty(_NAME, "features", features, (1, 2, 3))
    _checks.not_empty(_NAME, "weight", weight, (0,))
    if weight.shape[1] != features.shape[1]:
        rule = f"of {features.shape[1]} columns, the channels of features"
        raise _checks.wrong_value(_NAME, "weight", rule, _checks.shape_text(weight))
    _checks.same_device(_NAME, ("features", features), ("weight", weight))
    for name, value in (("gamma", gamma), ("beta", beta), ("mean", mean), ("variance", variance)):
        _checks.tensor(_NAME, name, value, "M")
        _checks.same_batch(_NAME, ("weight", weight), (name, value))
        _checks.same_device(_NAME, ("features", features), (name, value))
    _checks.choice(_NAME, "reduce", reduce, ("mean", "sum"))
    _checks.choice(_NAME, "normalize", normalize, ("all", "part", "none"))


def _two_steps(backend):
    """torch's convolution, norm and ReLU, then the backend's pooling."""

    def run(features, weight, gamma, beta, mean, variance, bn_eps, *options):
        attentions = reference.attend(features, weight, gamma, beta, mean, variance, bn_eps)
        reduce, signed_sqrt, normalize, eps, scale = options
        options = (reduce, signed_sqrt, normalize, 1, eps, scale)
        return pool.KERNELS[backend].run(features, attentions, *options)[0], attentions

    return run


_ONE_PASS = triton_kernel("attend_and_pool", "forward", _fake)
_TWO_STEPS = _two_steps("triton")


def _triton(features, weight, *arguments):
    """One pass if the sums fit a program's registers (docs/development/kernels.md), else two."""
    one_pass = features.element_size() == 2 and weight.shape[0] <= 32
    return (_ONE_PASS.run if one_pass else _TWO_STEPS)(features, weight, *arguments)


KERNELS = {
    "reference": Kernel(reference.forward),
    "cpu": Kernel(_two_steps("cpu"), devices=("cpu",)),
    "triton": replace(
        _ONE_PASS, run=_triton, note="one pass for 16 bits and M <= 32, else two steps"
    ),
}
forward = declare(
    f"{_FORWARD} -> (Tensor, Tensor)", KERNELS, _fake, check=_check, backward=None, batched=False
)
