"""How an operator is declared: its schema, kernels by backend, fake kernel and autograd formula.

Every dispatcher op `wsdan::<name>` takes the name of the resolved backend as its last argument, so
that the choice is part of the graph and reaches the backward pass on every thread.

The public functions and the formulas call the operator by a Python function that leaves the
dispatcher out where it has nothing to do: a third of a call's time.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import forward_ad

from wsdan_kernels import _checks as checks
from wsdan_kernels.ops import _autograd

LIBRARY = torch.library.Library("wsdan", "DEF")
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CUDA_IMAGES = (*TRITON_DTYPES, torch.uint8)  # of the C++ kernels that read images on a GPU


@dataclass(frozen=True)
class Kernel:
    """One backend's implementation of one op, and where it can run.

    run: called with the op's arguments less the backend's name.
    devices: device types it runs on, or None for all.
    dtypes: dtypes of the op's first tensor that it takes, or None for all the op takes.
    note: shown to the user by explain().
    """

    run: Callable
    devices: tuple[str, ...] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    note: str = ""

    def refusal(self, device_type: str, dtype: torch.dtype) -> str | None:
        """Why this kernel cannot take such a tensor, or None where it can."""
        if self.devices is not None and device_type not in self.devices:
            return f"runs on {' and '.join(self.devices)} tensors only, not {device_type}"
        if self.dtypes is not None and dtype not in self.dtypes:
            names = ", ".join(str(item).removeprefix("torch.") for item in self.dtypes)
            return f"takes {names} only, not {str(dtype).removeprefix('torch.')}"
        return None


def triton_kernel(module: str, function: str, allocate: Callable, note: str = "") -> Kernel:
    """The Triton kernel whose launcher is `_triton/<module>.py`'s `function`.

    allocate: the op's fake kernel; called with the op's arguments, it returns the uninitialised
    results, which the launcher takes after its arguments and fills. The module, and triton with it,
    is imported at the first call.
    """

    @functools.cache
    def launcher():
        return getattr(importlib.import_module(f"wsdan_kernels._triton.{module}"), function)

    def run(*arguments):
        results = allocate(*arguments)
        launcher()(*arguments, *(results if isinstance(results, tuple) else (results,)))
        return results if results != () else None

    return Kernel(run, devices=("cuda",), dtypes=TRITON_DTYPES, note=note)


def declare(
    schema: str,
    kernels: dict[str, Kernel],
    fake: Callable,
    *,
    check: Callable,
    backward: Callable | None,
    setup_context: Callable | None = None,
    batched: bool | Callable = True,
    trusted: bool = False,
) -> Callable:
    """Register the dispatcher op `wsdan::<name>`; return a function that runs it.

    schema: "name(arguments) -> results"; `str backend` is appended to the arguments.
    kernels: one kernel for each backend. fake: the fake kernel.
    check: called with the op's arguments before any kernel; raises TypeError or ValueError for
    what a kernel cannot take without reading outside of its tensors.
    backward: the autograd formula, or None for an op that is not differentiable, whose inputs the
    public function detaches. setup_context: what the formula saves.
    batched: the first axis of every tensor is the batch (B), so that torch.vmap is one call. Where
    a tensor counts images, a function of the arguments of S batches in one, (S*B,...), and of S
    that returns them with its numbers moved.
    trusted: those who call the returned function have checked all that `check` does.
    """
    arguments, _, results = schema.partition(") -> ")
    name = arguments.partition("(")[0]
    LIBRARY.define(f"{arguments}, str backend) -> {results}", tags=(torch.Tag.pt2_compliant_tag,))

    def execute(*arguments):
        kernel = kernels[arguments[-1]]
        device = arguments[0].device.type
        if torch.is_autocast_enabled(device):  # the kernels choose their own precision
            with torch.autocast(device, enabled=False):
                return kernel.run(*arguments[:-1])
        return kernel.run(*arguments[:-1])

    def run(*arguments):
        check(*arguments)
        kernel = kernels.get(arguments[-1])
        if kernel is None or (kernel.dtypes and arguments[0].dtype not in kernel.dtypes):
            raise _no_kernel(name, kernels, *arguments)
        return execute(*arguments)

    def checked_fake(*arguments):
        check(*arguments)
        return fake(*arguments)

    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"wsdan::{name}", checked_fake, lib=LIBRARY)
    below, differentiate = execute if trusted else run, None
    if backward is not None:
        differentiate = _autograd.register(LIBRARY, name, setup_context, backward, below)
    if batched:
        moved = batched if callable(batched) else None
        _autograd.register_batched(LIBRARY, name, moved)
    operator = getattr(torch.ops.wsdan, name).default

    def call(*arguments):
        if torch.compiler.is_compiling() or not _alone(arguments):
            return operator(*arguments)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            return operator(*arguments) if differentiate is None else differentiate(*arguments)
        return below(*arguments)

    return call


def _alone(arguments: tuple) -> bool:
    """Whether no mode, transform, trace or profiler sees the call and every tensor is a plain one.

    Then the dispatcher would run no kernel but that of the device, after autograd's. A plain tensor
    is of no subclass and has the dispatch keys of a new one.
    """
    if (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or torch.autograd._profiler_enabled()
    ):
        return False
    for value in arguments:
        if isinstance(value, torch.Tensor):
            keys = torch._C._dispatch_keys(value).raw_repr()
            if type(value) is not torch.Tensor or keys not in _new_keys(value.is_cuda):
                return False
    return True


@functools.cache
def _new_keys(on_gpu: bool) -> tuple[int, int]:
    """The dispatch keys of a new tensor, on the CPU or on a GPU, and of one of inference mode."""
    device = "cuda" if on_gpu else "cpu"
    with torch.inference_mode(False):
        usual = torch.empty(0, device=device)
    with torch.inference_mode():
        inference = torch.empty(0, device=device)
    return tuple(torch._C._dispatch_keys(value).raw_repr() for value in (usual, inference))


def _no_kernel(name: str, kernels: dict[str, Kernel], first: torch.Tensor, *rest) -> Exception:
    """The error for a backend that is none of the op's, or does not take its first tensor."""
    backend = rest[-1]
    if backend not in kernels:
        rule = "one of " + ", ".join(repr(item) for item in kernels)
        return checks.wrong_value(name, "backend", rule, repr(backend))
    reason = kernels[backend].refusal("", first.dtype)
    return checks.wrong_type(
        name, "backend", f"one that takes {first.dtype}", f"{backend}: {reason}"
    )
