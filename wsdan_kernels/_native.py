"""Loads the C++ and the CUDA library on first use, and keeps the reason if one does not load.

Schemas are defined here, in the namespace `wsdan_native`. The libraries only add kernels, through
the libtorch stable ABI, so one build works with every torch from 2.11 on.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

_SCHEMAS = torch.library.Library("wsdan_native", "DEF")
_SCHEMAS.define("cpu_level() -> str")
_SCHEMAS.define("mkl_here() -> bool")
_SCHEMAS.define("allow_mkl(bool value) -> bool")
_SCHEMAS.define("cuda_archs() -> str")
_SCHEMAS.define("cuda_driver_error() -> str")
DISABLE = "WSDAN_DISABLE_NATIVE"
_NAMES = {"cpu": "C++ library", "cuda": "CUDA library"}
_NEEDED = {"cpu": "on a machine with a C++ compiler", "cuda": "where nvcc is"}
_WHEEL = {"cpu": "for this machine", "cuda": "without +cpu in its version"}
_FOLDER = Path(__file__).parent


def kernel(schema: str, outputs: int, allocate: Callable) -> Callable:
    """Define `wsdan_native::<schema>` and return a callable that allocates its results and runs it.

    schema: "name(arguments)"; the native operator takes `outputs` tensors to fill after them.
    allocate: called with the same arguments, returns the uninitialised results: a tensor, or a
    tuple of them. It is the operator's fake kernel, so that both always agree.
    """
    name, _, arguments = schema.removesuffix(")").partition("(")
    targets = "".join(f", Tensor({chr(97 + i)}!) out{i}" for i in range(outputs))
    _SCHEMAS.define(f"{name}({arguments}{targets}) -> ()")
    operator = getattr(torch.ops.wsdan_native, name)

    def run(*values):
        on_gpu = any(isinstance(value, torch.Tensor) and value.is_cuda for value in values)
        # An exported program calls the op before anything else has loaded the library.
        reason = failure("cuda" if on_gpu else "cpu")
        if reason is not None:
            raise RuntimeError(f"{name}: {reason}")
        results = allocate(*values)
        operator(*values, *(results if isinstance(results, tuple) else (results,)))
        return results if outputs else None

    return run


@functools.cache
def failure(name: str) -> str | None:
    """Load the library `_<name>` on first use; None, or one line that says why it cannot be used.

    name: "cpu" or "cuda"; a CUDA library that loads may still find no GPU.
    """
    if os.environ.get(DISABLE, "0") not in ("", "0"):
        return f"switched off by {DISABLE}={os.environ[DISABLE]}"
    if name == "cuda" and torch.version.cuda is None:
        return "this torch is built without CUDA"
    files = sorted(_FOLDER.glob(f"_{name}.*"))
    files = [file for file in files if file.suffix in (".so", ".pyd", ".dylib")]
    if not files:
        return f"the {_NAMES[name]} wsdan_kernels/_{name} was not built{_why_not_built(name)}"
    tracing = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # torch.jit.trace cannot record an operator without tensors
    try:
        torch.ops.load_library(str(files[0]))
        cpu_level() if name == "cpu" else cuda_archs()  # raises where WSDAN_CPU_LEVEL is wrong
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        return f"the {_NAMES[name]} {files[0].name} does not load: {reason}"
    finally:
        torch._C._set_tracing_state(tracing)
    return None


def _why_not_built(name: str) -> str:
    """What the build noted beside the library (see native_build/cuda.py), and what to do."""
    note = _FOLDER / f"_{name}_missing.txt"
    reason = f" ({note.read_text(encoding='utf-8').strip()})" if note.exists() else ""
    if (_FOLDER.parent / "csrc").is_dir():
        return f"{reason}; run `pip install -e .` again {_NEEDED[name]}"
    return f"{reason}; install a wheel of wsdan-kernels {_WHEEL[name]}"


def cpu_level() -> str:
    """The vector instructions the CPU kernels use: "baseline", "avx2" or "avx512".

    It is the machine's best, or what WSDAN_CPU_LEVEL names; needs failure("cpu") to be None.
    """
    return torch.ops.wsdan_native.cpu_level()


def mkl_here() -> bool:
    """Whether mean and sum pooling on the CPU take MKL's products in the shapes where they win.

    So on an Intel CPU with AVX-512 and a torch that brings MKL; needs failure("cpu") to be None.
    """
    return torch.ops.wsdan_native.mkl_here()


def cuda_archs() -> tuple[str, ...]:
    """What the CUDA library was compiled for, such as ("sm_80", "sm_90", "compute_80").

    Machine code, and the PTX that newer GPUs translate; needs failure("cuda") to be None.
    """
    return tuple(torch.ops.wsdan_native.cuda_archs().split())


def cuda_driver_error() -> str:
    """Empty, or why the CUDA runtime in the library cannot use a GPU that torch can.

    An old driver, as a rule; needs failure("cuda") to be None.
    """
    return torch.ops.wsdan_native.cuda_driver_error()
