"""Autocast's bfloat16 at the speed of float32, on a CPU that multiplies bfloat16 slowly."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
PRODUCTS = {
    aten.convolution.default,
    aten.convolution_backward.default,
    aten.mm.default,
    aten.addmm.default,
}


class FastBfloat16(TorchDispatchMode):
    """Within it, products of bfloat16 tensors are computed in float32 and rounded.

    That is what a GPU and AMX do: products of two bfloat16 numbers are exact in float32, their sum
    is a float32, the result is rounded once. Only the order of the sum differs.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in PRODUCTS and args[1].dtype == torch.bfloat16:
            return tree_map(_narrowed, func(*tree_map(_widened, args), **kwargs))
        return func(*args, **kwargs)


def _widened(value: object) -> object:
    half = isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16
    return value.float() if half else value


def _narrowed(value: object) -> object:
    return value.bfloat16() if isinstance(value, torch.Tensor) else value
