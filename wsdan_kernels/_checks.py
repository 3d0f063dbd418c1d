"""Argument checks of the public functions, and the wording of their errors.

Every error names the function, the argument, the rule and the value given: TypeError for a wrong
type (not a tensor, wrong dtype), ValueError for a wrong value (shape, range, mixed devices).
"""

import sys

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
IMAGES = (*FLOATING, torch.uint8)
INTEGER = (torch.int64, torch.int32)
LARGEST = sys.float_info.max
INTEGRAL = (int, np.integer, torch.SymInt, Tensor)  # a Tensor: a size, under torch.jit.trace
LONGEST_SIDE = 2**24  # of an image, in pixels: float32 counts them exactly


def wrong_type(op: str, name: str, rule: str, came: str) -> TypeError:
    return TypeError(f"{op}: {name} must be {rule}, but got {came}")


def wrong_value(op: str, name: str, rule: str, came: str) -> ValueError:
    return ValueError(f"{op}: {name} must be {rule}, but got {came}")


def shape_text(value: Tensor) -> str:
    return "(" + ", ".join(str(size) for size in value.shape) + ")"


def tensor(op: str, name: str, value: Tensor, layout: str, dtypes: tuple = FLOATING) -> None:
    """Check that `value` is a dense tensor with as many axes as `layout` names, and its dtype.

    layout: axis names separated by blanks, such as "B C h w".
    """
    if not isinstance(value, Tensor):
        raise wrong_type(op, name, "a torch.Tensor", type(value).__name__)
    dense(op, name, value)
    if value.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise wrong_type(op, name, f"of dtype {names}", str(value.dtype).removeprefix("torch."))
    if value.dim() != layout.count(" ") + 1:
        axes = "(" + layout.replace(" ", ", ") + ")"
        raise wrong_value(op, name, f"of shape {axes}", shape_text(value))


def dense(op: str, name: str, value: Tensor) -> None:
    if value.layout != torch.strided or value.is_nested:
        came = "a nested tensor" if value.is_nested else str(value.layout)
        raise wrong_type(op, name, "a dense (strided) tensor", came)


def not_empty(op: str, name: str, value: Tensor, axes: tuple[int, ...]) -> None:
    """Check that the given axes of `value` have at least one element (the batch may be empty)."""
    shape = value.shape
    for axis in axes:
        if shape[axis] == 0:
            raise wrong_value(op, name, f"non-empty along axis {axis}", shape_text(value))


def same_batch(op: str, first: tuple[str, Tensor], second: tuple[str, Tensor]) -> None:
    if first[1].shape[0] != second[1].shape[0]:
        rule = f"of the batch size of {first[0]} {shape_text(first[1])}"
        raise wrong_value(op, second[0], rule, shape_text(second[1]))


def same_device(op: str, first: tuple[str, Tensor], second: tuple[str, Tensor]) -> None:
    if first[1].device != second[1].device:
        rule = f"on the device of {first[0]} ({first[1].device})"
        raise wrong_value(op, second[0], rule, str(second[1].device))


def same_dtype(op: str, first: tuple[str, Tensor], second: tuple[str, Tensor]) -> None:
    if first[1].dtype != second[1].dtype:
        rule = f"of the dtype of {first[0]} ({first[1].dtype})"
        raise wrong_type(op, second[0], rule, str(second[1].dtype))


def like(
    op: str, first: tuple[str, Tensor], second: tuple[str, Tensor], batch: bool = True
) -> None:
    """Check that `second` has the device and dtype of `first`, and unless told not to its batch."""
    same_device(op, first, second)
    same_dtype(op, first, second)
    if batch:
        same_batch(op, first, second)


def exactly(
    op: str, name: str, value: Tensor, shape: tuple, dtype: torch.dtype, beside: Tensor
) -> None:
    """Check that `value` has this shape and dtype, and the device of `beside`."""
    dense(op, name, value)
    if value.shape != shape:
        rule = "of shape (" + ", ".join(str(size) for size in shape) + ")"
        raise wrong_value(op, name, rule, shape_text(value))
    if value.dtype != dtype:
        raise wrong_type(op, name, f"of dtype {dtype}", str(value.dtype))
    if value.device != beside.device:
        raise wrong_value(op, name, f"on {beside.device}", str(value.device))


def no_tangent(op: str, name: str, value: Tensor) -> None:
    """Refuse forward-mode differentiation (jvp, jacfwd) of what carries no gradient."""
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None:
        raise NotImplementedError(
            f"{op}: has no forward-mode derivatives, but {name} has a tangent"
        )


def choice(op: str, name: str, value: object, allowed: tuple) -> None:
    if not isinstance(value, (str, type(None))):
        raise wrong_type(op, name, _one_of(allowed), type(value).__name__)
    if value not in allowed:
        raise wrong_value(op, name, _one_of(allowed), repr(value))


def _one_of(allowed: tuple) -> str:
    return "one of " + ", ".join(repr(item) for item in allowed)


def number(op: str, name: str, value: float, low: float, high: float = LARGEST) -> None:
    """Check that `value` is a real number with low <= value <= high, infinities excluded."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(op, name, "a number", type(value).__name__)
    if not low <= value <= high:
        rule = f"in [{low:g}, {high:g}]"
        if high == LARGEST:
            rule = "finite" if low == -LARGEST else f"finite and >= {low:g}"
        raise wrong_value(op, name, rule, _number_text(value))


def integer(op: str, name: str, value: int, low: int) -> None:
    """Check that `value` is an integer of 32 bits with value >= low."""
    if isinstance(value, bool) or not isinstance(value, INTEGRAL):
        raise wrong_type(op, name, "an integer", type(value).__name__)
    if not low <= value < 2**31:
        rule = f"an integer >= {low} of 32 bits"
        raise wrong_value(op, name, rule, _number_text(value))


def _number_text(value: float) -> str:
    if isinstance(value, int) and abs(value) > LARGEST:  # no float, and too long to print
        return f"an integer of {value.bit_length()} bits"
    return f"{value:g}" if isinstance(value, float) else str(value)


def flag(op: str, name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise wrong_type(op, name, "True or False", type(value).__name__)


def index_range(op: str, name: str, value: Tensor, size: int) -> None:
    """Check that the integers of `value` (N,) lie in [0, size).

    Only on the CPU and outside of torch.compile and torch.func: on a GPU the host would wait for
    the device. A fake tensor has no values.
    """
    if value.device.type != "cpu" or torch.compiler.is_compiling() or value.numel() == 0:
        return
    if torch._C._are_functorch_transforms_active():  # a batched tensor gives no numbers
        return
    if isinstance(value, torch._subclasses.FakeTensor):
        return
    numbers = value.tolist()
    low, high = min(numbers), max(numbers)
    if low < 0 or high >= size:
        raise wrong_value(op, name, f"in [0, {size})", str(low if low < 0 else high))


def image_size(op: str, name: str, value: tuple[int, int]) -> tuple[int, int]:
    """Check a (height, width) pair of integers from 1 to 2^24 and return it as a tuple."""
    if not isinstance(value, (tuple, list, torch.Size)) or len(value) != 2:
        raise wrong_type(op, name, "a pair (height, width)", repr(value))
    for size in value:
        if isinstance(size, bool) or not isinstance(size, INTEGRAL):
            raise wrong_type(op, name, "a pair of integers", repr(value))
        if size < 1:
            raise wrong_value(op, name, "a pair of positive integers", repr(value))
        if size > LONGEST_SIDE:
            rule = f"a pair of integers up to {LONGEST_SIDE}"
            raise wrong_value(op, name, rule, _number_text(size))
    return value[0], value[1]
