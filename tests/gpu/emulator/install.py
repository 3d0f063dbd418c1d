"""backend="cuda" on CPU tensors, for as long as a test module wants it: the emulator's operators.

The Python of the operators is the shipped one, up to the call of wsdan_native.
"""

import contextlib
import ctypes
import functools
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from emulator import build
from wsdan_kernels import _native, backends, ops
from wsdan_kernels.ops._declare import Kernel

NATIVE, EMULATED = "wsdan_native", "wsdan_emulated"


@contextlib.contextmanager
def installed():
    """The body's backend="cuda" runs in the emulator; it gets the emulator's library."""
    library = _load()
    failure, backend_failure = _native.failure, backends._failure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            _native,
            "failure",
            lambda name: None if name == "cuda" or _emulating() else failure(name),
        )
        patch.setattr(
            backends, "_failure", lambda name: None if name == "cuda" else backend_failure(name)
        )
        for table in _tables():
            patch.setitem(table, "cuda", _emulated(table["cuda"]))
        yield library


@contextlib.contextmanager
def order(library: ctypes.CDLL, seed: int):
    """Blocks and threads run in the order that this seed gives."""
    library.emulator_seed(ctypes.c_uint64(seed))
    try:
        yield
    finally:
        library.emulator_seed(ctypes.c_uint64(0))


@contextlib.contextmanager
def failing(library: ctypes.CDLL):
    """Every launch is refused, with the text "a planted failure"."""
    library.emulator_fail(1)
    try:
        yield
    finally:
        library.emulator_fail(0)


@contextlib.contextmanager
def tensors_on(library: ctypes.CDLL, device: int):
    """All tensors are on this GPU, while GPU 0 is the current one."""
    library.emulator_tensors_on(device)
    try:
        yield
    finally:
        library.emulator_tensors_on(0)


def launches(library: ctypes.CDLL) -> int:
    """How many kernels have been launched so far."""
    library.emulator_launches.restype = ctypes.c_uint64
    return library.emulator_launches()


class _ToTheEmulator(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        space, name = func._schema.name.split("::")
        if space == NATIVE and _has_kernel(name):
            func = getattr(getattr(torch.ops, EMULATED), name)
        return func(*args, **(kwargs or {}))


def _emulating() -> bool:
    return any(isinstance(mode, _ToTheEmulator) for mode in _get_current_dispatch_mode_stack())


@functools.cache
def _has_kernel(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{EMULATED}::{name}", "CPU")


def _emulated(kernel: Kernel) -> Kernel:
    def run(*arguments):
        with _ToTheEmulator():
            return kernel.run(*arguments)

    return replace(kernel, run=run, devices=("cpu",))


def _tables() -> list[dict]:
    """Every operator's kernels by backend, those of its backward too, where cuda is among them."""
    modules = [value for value in vars(ops).values() if isinstance(value, ModuleType)]
    found = [value for module in modules for value in vars(module).values()]
    tables = {id(value): value for value in found if isinstance(value, dict) and "cuda" in value}
    return [table for table in tables.values() if isinstance(table["cuda"], Kernel)]


@functools.cache
def _load() -> ctypes.CDLL:
    """Defines wsdan_native's schemas again under the emulator's name, and loads its operators."""
    definitions = torch.library.Library(EMULATED, "DEF")
    for full_name in torch._C._dispatch_get_all_op_names():
        space, name = full_name.split("::")
        if space == NATIVE:
            schema = getattr(getattr(torch.ops, NATIVE), name).default._schema
            definitions.define(str(schema).removeprefix(f"{NATIVE}::"))
    path = str(build.operators())
    torch.ops.load_library(path)
    library = ctypes.CDLL(path)
    library.definitions = definitions  # gone with the last reference to it
    return library
