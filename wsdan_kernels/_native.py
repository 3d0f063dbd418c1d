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
DISABLE = "WSDAN_DISABLE_NATIVE"


def define(schema: str) -> None:
    """Define `wsdan_native::<schema>` for the library to implement."""
    _SCHEMAS.define(schema)


def operator(name: str) -> Callable:
    """A callable that runs `wsdan_native::<name>`; it needs failure("cpu") to be None."""
    return getattr(torch.ops.wsdan_native, name)


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
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        return f"the C++ library {files[0].name} does not load: {reason}"
    return None
