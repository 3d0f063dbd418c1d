"""Loads the C++ library, and keeps the reason where it does not load.

Schemas are defined here in Python, in the namespace `wsdan_native`; the library only adds kernels
to them, through the libtorch stable ABI, so one build works under every torch from 2.11 on.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

_SCHEMAS = torch.library.Library("wsdan_native", "DEF")
_SCHEMAS.define("cpu_level() -> str")
DISABLE = "WSDAN_DISABLE_NATIVE"


def kernel(schema: str, outputs: int, allocate: Callable) -> Callable:
    """Define `wsdan_native::<schema>` and return a callable that allocates its results and runs it.

    schema: "name(arguments)"; the native operator takes `outputs` tensors to fill after them.
    allocate: called with the same arguments, returns the uninitialised results: a tensor, or a
    tuple of them. An operator's fake kernel does this, so that both always agree.
    """
    name, arguments = schema[:-1].split("(", 1)
    targets = "".join(f", Tensor({chr(97 + i)}!) out{i}" for i in range(outputs))
    _SCHEMAS.define(f"{name}({arguments}{targets}) -> ()")
    operator = getattr(torch.ops.wsdan_native, name)

    def run(*values):
        # Loads the library, where an exported program calls the op first.
        reason = failure("cuda" if values[0].is_cuda else "cpu")
        if reason is not None:
            raise RuntimeError(f"{name}: {reason}")
        results = allocate(*values)
        operator(*values, *(results if isinstance(results, tuple) else (results,)))
        return results if outputs else None

    return run


@functools.cache
def failure(name: str) -> str | None:
    """Load the library `_<name>` on first use; None, or one line that says why it cannot be used.

    name: "cpu".
    """
    if os.environ.get(DISABLE, "0") not in ("", "0"):
        return f"switched off by {DISABLE}={os.environ[DISABLE]}"
    files = sorted(Path(__file__).parent.glob(f"_{name}.*"))
    files = [file for file in files if file.suffix in (".so", ".pyd", ".dylib")]
    if not files:
        return (
            f"the C++ library wsdan_kernels/_{name} was not built; "
            "run `pip install -e .` again on a machine with a C++ compiler"
        )
    try:
        torch.ops.load_library(str(files[0]))
        cpu_level()  # raises where WSDAN_CPU_LEVEL is wrong
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        return f"the C++ library {files[0].name} does not load: {reason}"
    return None


def cpu_level() -> str:
    """The vector instructions the CPU kernels use: "baseline", "avx2" or "avx512".

    It is the machine's best, or what WSDAN_CPU_LEVEL names; needs failure("cpu") to be None.
    """
    return torch.ops.wsdan_native.cpu_level()
