"""Triton's interpreter made as exact as the GPU, and steered: what the tests of `_triton` need."""

import contextlib
import os

import numpy as np
import torch

# Before the kernels are imported: with no GPU they run in the interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def interpreting() -> bool:
    """Whether the kernels run in the interpreter."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def round_as_the_gpu() -> None:
    """bfloat16 rounded to nearest even: the interpreter cuts the low bits off."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    cast = builder.cast_impl

    def cast_impl(self, source, target):
        if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, target)
        values = torch.from_numpy(np.array(source.data, dtype=np.float32))
        bits = values.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        return interpreter.TensorHandle(bits.reshape(np.shape(source.data)), tl.bfloat16)

    builder.cast_impl = cast_impl


@contextlib.contextmanager
def shuffled(seed: int):
    """The interpreter runs the programs of every grid in a random order."""
    from triton.runtime.interpreter import interpreter_builder as builder

    place = builder.set_grid_idx
    orders: dict[tuple[int, ...], np.ndarray] = {}

    def shuffled_place(x, y, z):
        grid = tuple(builder.grid_dim)
        programs = grid[0] * grid[1] * grid[2]
        first = x == y == z == 0
        if first or grid not in orders:
            orders[grid] = np.random.default_rng([seed, programs]).permutation(programs)
        number = int(orders[grid][(x * grid[1] + y) * grid[2] + z])
        place(number // (grid[1] * grid[2]), number // grid[2] % grid[1], number % grid[2])

    builder.set_grid_idx = shuffled_place
    try:
        yield orders
    finally:
        del builder.set_grid_idx
