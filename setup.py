"""Builds the C++ operators of wsdan_kernels; everything else stands in pyproject.toml.

The library goes through libtorch's stable ABI: built once, it loads under every torch from 2.11 on.
WSDAN_NATIVE=0 skips it (the plain PyTorch operators then run, and `wsdan info` says so).
WSDAN_CPU_FLAGS adds compiler and linker flags, such as -fsanitize=address (see the Makefile).
"""

import os
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
STABLE_ABI = [
    ("TORCH_TARGET_VERSION", "0x020b000000000000"),  # torch 2.11
    ("TORCH_STABLE_ONLY", None),
]
COMPILER_FLAGS = [
    "-std=c++20",
    "-O3",
    # No contraction: a fused multiply-add is written where it is meant, so that all builds round
    # alike. Neither errno nor traps: they would keep roots and comparisons out of vectors.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-psabi",  # vectors are passed between inlined functions only
    *os.environ.get("WSDAN_CPU_FLAGS", "").split(),
]


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
        extra_link_args=os.environ.get("WSDAN_CPU_FLAGS", "").split(),
        py_limited_api=True,
    )
    return {
        "ext_modules": [cpu],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**native_build())
