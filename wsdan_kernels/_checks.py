"""Argument checks of the public functions, and the wording of their errors.

Every error names the function, the argument, the rule and the value given: TypeError for a wrong
type (not a tensor, wrong dtype), ValueError for a wrong value (shape, range, mixed devices).
"""

import sys

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
IMAGES = (*FLOATING, torch.uint8)
INTEGER = (torch.int64, torch.int32)
LARGEST = sys.float_info.max


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
    axes = "(" + layout.replace(" ", ", ") + ")"
    if value.layout != torch.strided:
        raise wrong_type(op, name, "a dense (strided) tensor", str(value.layout))
    if value.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise wrong_type(op, name, f"of dtype {names}", str(value.dtype).removeprefix("torch."))
    if value.dim() != len(layout.split()):
        raise wrong_value(op, name, f"of shape {axes}", shape_text(value))


def not_empty(op: str, name: str, value: Tensor, axes: tuple[int, ...]) -> None:
    """Check that the given axes of `value` have at least one element (the batch may be empty)."""
    for axis in axes:
        if value.shape[axis] == 0:
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


def choice(op: str, name: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        names = ", ".join(repr(item) for item in allowed)
        raise wrong_value(op, name, f"one of {names}", repr(value))


def number(op: str, name: str, value: float, low: float, high: float = LARGEST) -> None:
    """Check that `value` is a real number with low <= value <= high, infinities excluded."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(op, name, "a number", type(value).__name__)
    if not low <= value <= high:
        rule = f"in [{low:g}, {high:g}]"
        if high == LARGEST:
            rule = "finite" if low == -LARGEST else f"finite and >= {low:g}"
        raise wrong_value(op, name, rule, f"{value:g}")


def flag(op: str, name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise wrong_type(op, name, "True or False", type(value).__name__)


def index_range(op: str, name: str, value: Tensor, size: int) -> None:
    """Check that the integers of `value` (N,) lie in [0, size).

    Only on the CPU and outside of torch.compile: on a GPU the host would wait for the device.
    """
    if value.device.type != "cpu" or torch.compiler.is_compiling() or value.numel() == 0:
        return
    numbers = value.tolist()
    low, high = min(numbers), max(numbers)
    if low < 0 or high >= size:
        raise wrong_value(op, name, f"in [0, {size})", str(low if low < 0 else high))


def image_size(op: str, name: str, value: tuple[int, int]) -> tuple[int, int]:
    """Check a (height, width) pair of positive integers and return it as a tuple."""
    if not isinstance(value, (tuple, list, torch.Size)) or len(value) != 2:
        raise wrong_type(op, name, "a pair (height, width)", repr(value))
    for size in value:
        if isinstance(size, (bool, float, str)):
            raise wrong_type(op, name, "a pair of integers", repr(value))
        if size < 1:
            raise wrong_value(op, name, "a pair of positive integers", repr(value))
    return value[0], value[1]
