"""Which backends can run here, which one runs an operator, and why the others do not.

A backend is a set of kernels: `reference` (plain PyTorch, everywhere), `cpu` (C++), `triton` and
`cuda` (C++/CUDA). An operator need not have a kernel in each.
"""

import functools
import importlib.metadata
import importlib.util
import os

import torch

from wsdan_kernels import _native
from wsdan_kernels.ops import KERNELS

NAMES = ("reference", "cpu", "triton", "cuda")
_FASTEST_FIRST = ("cuda", "triton", "cpu", "reference")
_OLDEST_TRITON, _OLDEST_CAPABILITY = (3, 6), (8, 0)


class BackendUnavailableError(RuntimeError):
    """A backend was asked for by name and cannot run; the message says why."""


def available() -> dict[str, str | None]:
    """Each backend's name with None where it can run here, or one line that says why it cannot."""
    return {name: _failure(name) for name in NAMES}


def why_not(op: str, backend: str, device_type: str, dtype: torch.dtype) -> str | None:
    """Why `backend` cannot run `op` on such a tensor, or None where it can.

    op: a name of `wsdan_kernels.ops.KERNELS`, else ValueError; backend: one of NAMES; device_type:
    "cpu", "cuda" ...
    """
    failure = _failure(backend)
    if failure is not None:
        return failure
    kernel = _kernels(op).get(backend)
    if kernel is None:
        return f"no {backend} kernel for {op} in this version"
    if backend == "triton" and device_type == "cpu" and _interpreted():
        device_type = "cuda"
    return kernel.refusal(device_type, dtype)


def resolve(op: str, backend: str, device_type: str, dtype: torch.dtype) -> str:
    """The name of the backend that runs `op`: "auto" takes the fastest that can.

    Raises ValueError for an unknown name, BackendUnavailableError (a RuntimeError) with the reason
    for a backend that was asked for by name and cannot run.
    """
    if backend == "auto":
        kernels = _kernels(op)
        for name in _FASTEST_FIRST:
            kernel = kernels.get(name)
            if kernel is None or kernel.refusal(device_type, dtype) is not None:
                continue
            if name == "triton" and _interpreted():  # a thousand times slower
                continue
            if _failure(name) is None:
                return name
    if backend not in NAMES:
        names = ", ".join(repr(name) for name in ("auto", *NAMES))
        raise ValueError(f"{op}: backend must be one of {names}, but got {backend!r}")
    reason = why_not(op, backend, device_type, dtype)
    if reason is not None:
        raise BackendUnavailableError(f"{op}: backend {backend!r} cannot run: {reason}")
    return backend


# What torch.compiler.assume_constant_result sets, without its import of the compiler (1.8 s): a
# compiled graph takes the choice made while it is traced.
resolve._dynamo_marked_constant = True


def explain(device: str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """A text: which backends can run, or why not; then what "auto" takes for each operator and why.

    device: a device type or device string; dtype: of the operator's first tensor.
    """
    device_type = torch.device(device).type
    lines = ["backends:"]
    for name, failure in available().items():
        text = "can run" if failure is None else f"cannot run: {failure}"
        if name == "cpu" and failure is None:
            mkl = "; MKL's products in pooling where they win" if _native.mkl_here() else ""
            text += f" ({_native.cpu_level()} instructions{mkl})"
        if name == "cuda" and _native.failure("cuda") is None:
            text += f" (compiled for {' '.join(_native.cuda_archs())})"
        if name == "triton" and _interpreted():
            text += " (in Triton's interpreter, slowly: only where asked for by name)"
        lines.append(f"  {name}: {text}")
    lines.append(f'backend="auto" on {device_type}, {str(dtype).removeprefix("torch.")}:')
    for op in KERNELS:
        chosen = resolve(op, "auto", device_type, dtype)
        faster = _FASTEST_FIRST[: _FASTEST_FIRST.index(chosen)]
        reasons = [why_not(op, name, device_type, dtype) for name in faster if not _failure(name)]
        notes = [reason for reason in (*reasons, KERNELS[op][chosen].note) if reason]
        lines.append(f"  {op}: {chosen}" + "".join(f" ({note})" for note in notes))
    return "\n".join(lines)


def _kernels(op: str) -> dict:
    """The operator's kernels by backend; ValueError for a name that is none of KERNELS."""
    if op not in KERNELS:
        names = ", ".join(KERNELS)
        raise ValueError(f"{op!r} must be an operator of wsdan_kernels/ops, one of {names}")
    return KERNELS[op]


def _failure(backend: str) -> str | None:
    if backend == "cpu":
        return _native.failure("cpu")
    if backend == "cuda":
        return _cuda_failure()
    return _triton_failure(_interpreted()) if backend == "triton" else None


@functools.cache  # called for every operator call, and reads package metadata from disk
def _triton_failure(interpreted: bool) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; `pip install triton`"
    version = importlib.metadata.version("triton")
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_TRITON:
        return f"triton {version} is older than {'.'.join(map(str, _OLDEST_TRITON))}"
    return None if interpreted else _gpu_failure()


@functools.cache
def _cuda_failure() -> str | None:
    failure = _native.failure("cuda") or _gpu_failure()
    if failure is not None:
        return failure
    error = _native.cuda_driver_error()
    if error:
        return f"the CUDA library cannot use this driver: {error}"
    archs = _native.cuda_archs()
    for device in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(device)
        if not _runs_on(archs, major, minor):
            return (
                f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, the "
                f"CUDA library is for {' '.join(archs)}; build it with WSDAN_CUDA_ARCHS unset"
            )
    return None


def _runs_on(archs: tuple[str, ...], major: int, minor: int) -> bool:
    """Whether a GPU of this compute capability runs one of `archs`.

    Machine code runs on later GPUs of the same major version, PTX on all later ones.
    """
    for arch in archs:
        kind, _, number = arch.partition("_")
        wanted = divmod(int(number), 10)
        if wanted <= (major, minor) and (kind == "compute" or wanted[0] == major):
            return True
    return False


def _gpu_failure() -> str | None:
    """Why the NVIDIA GPUs cannot be used: there is none, or one is too old."""
    if torch.version.hip is not None:
        return "the kernels are for NVIDIA GPUs, this torch is built for AMD's"
    if not torch.cuda.is_available():
        return "no NVIDIA GPU that torch can use"
    for device in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_capability(device)
        if found < _OLDEST_CAPABILITY:
            name, rule = torch.cuda.get_device_name(device), ".".join(map(str, _OLDEST_CAPABILITY))
            return f"{name} has compute capability {found[0]}.{found[1]}, {rule} is needed"
    return None


def _interpreted() -> bool:
    """Whether TRITON_INTERPRET asks Triton to run its kernels in Python, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
