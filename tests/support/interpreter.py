"""Triton's interpreter made as exact as the GPU, and steered: what the tests of `_triton` need."""

import contextlib
import dataclasses
import os
from collections.abc import Callable

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


def remember_what_repeats() -> None:
    """The interpreter's results in a third of its time: nothing that is computed changes.

    What it works out for every call and operation, it then works out once: the patches of
    triton.language (once for each launch), types of blocks, shapes of tensors, dtypes of numpy.
    The check of sums for overflow is left out, of which it drops the outcome without debug.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    _patch_once_a_launch(interpreter, (tl, tl.core))
    np_dtype, np_dtypes = interpreter._get_np_dtype, {}

    def remembered(dtype):
        if dtype.name not in np_dtypes:
            np_dtypes[dtype.name] = np_dtype(dtype)
        return np_dtypes[dtype.name]

    interpreter._get_np_dtype = remembered
    constexpr = tl.constexpr

    def block(element_ty, shape):
        sizes = [size.value if type(size) is constexpr else size for size in shape]
        return (element_ty.name, *sizes), {"element_ty": element_ty}

    _remember_attributes(tl.block_type, block)
    _remember_attributes(
        tl.tensor, lambda handle, type: (type.name, {"handle": handle, "type": type})
    )


def _patch_once_a_launch(interpreter, languages) -> None:
    launch, patch = interpreter.GridExecutor.__call__, interpreter._patch_lang
    patched: set[tuple[bool, ...]] = set()
    seen_by: dict[Callable, tuple[bool, ...]] = {}  # which of the languages a function sees

    def patch_once(function):
        if function not in seen_by:
            values = list(function.__globals__.values())
            seen_by[function] = tuple(any(v is lang for v in values) for lang in languages)
        if seen_by[function] not in patched:
            patched.add(seen_by[function])
            return patch(function)
        return None

    def launch_anew(self, *arguments, **keywords):
        patched.clear()
        return launch(self, *arguments, **keywords)

    interpreter._patch_lang = patch_once
    interpreter.GridExecutor.__call__ = launch_anew


def _remember_attributes(kind: type, described: Callable[..., tuple[object, dict]]) -> None:
    """Make `kind` set attributes as it did for equal arguments before.

    described: the key of the arguments, and the attributes that are the arguments themselves.
    """
    make, made = kind.__init__, {}

    def init(self, *arguments, **keywords):
        key, own = described(*arguments, **keywords)
        attributes = made.get(key)
        if attributes is None:
            make(self, *arguments, **keywords)
            made[key] = {name: v for name, v in self.__dict__.items() if name not in own}
        else:
            self.__dict__.update(attributes)
            self.__dict__.update(own)

    kind.__init__ = init


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
