"""From one function for each way to do a work to the variants that the harness times."""

from collections.abc import Callable
from functools import partial

import torch
from harness.run import in_turn, ours
from torch import Tensor


def copies(inputs: list[Tensor], count: int) -> list[list[Tensor]]:
    """The inputs, and copies of them to take turns with."""
    return [inputs] + [[value.clone() for value in inputs] for _ in range(count - 1)]


def steps(
    eager: Callable,
    ours_on: Callable,
    compiled_step: Callable,
    ops: tuple[str, ...],
    device: str,
    dtype: torch.dtype,
) -> dict[str, Callable]:
    """The variants as functions of the same inputs; ours_on takes a backend besides.

    ops: the operators it takes, whose backends are ours.
    """
    found = {
        "published": eager,
        "reference": partial(ours_on, backend="reference"),
        "compiled": compiled_step,
    }
    for name in ours(ops, device, dtype):
        found[name] = partial(ours_on, backend=name)
    return found


def variants(
    functions: dict[str, Callable], call_of: Callable[[Callable, int], Callable], count: int
) -> dict[str, Callable]:
    """A work's variants: each function on `count` sets of inputs in turn."""
    return {
        name: in_turn([call_of(function, i) for i in range(count)])
        for name, function in functions.items()
    }
