"""Builds the C++ operators of wsdan_kernels; everything else stands in pyproject.toml.

The library goes through libtorch's stable ABI: built once, it loads under every torch from 2.11 on.
WSDAN_NATIVE=0 skips it (the plain PyTorch operators then run, and `wsdan info` says so).
"""

import os
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
STABLE_ABI = [
    ("TORCH_TARGET_VERSION", "0x020b000000000000"),  # torch 2.11
    ("TORCH_STABLE_ONLY", None),
]
# No contraction: a fused multiply-add is written where it is meant, so that all builds round alike.
COMPILER_FLAGS = ["-std=c++20", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall"]


def native_build() -> dict:
    """The arguments of setup() that build `wsdan_kernels/_cpu`, the CPU operators."""
    if os.environ.get("WSDAN_NATIVE", "1") == "0":
        return {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    cpu = CppExtension(
        "wsdan_kernels._cpu",
        sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc/cpu").glob("*.cpp")),
        depends=sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.h")),
        define_macros=STABLE_ABI,
        extra_compile_args=COMPILER_FLAGS,
        py_limited_api=True,
    )
    return {
        "ext_modules": [cpu],
        "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=False)},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**native_build())
