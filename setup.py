"""Builds the C++ and CUDA operators of wsdan_kernels; everything else stands in pyproject.toml.

They go through libtorch's stable ABI: built once, they load under every torch from 2.11 on.
WSDAN_NATIVE=0 skips both (the plain PyTorch operators then run, and `wsdan info` says so).
WSDAN_CPU_FLAGS adds compiler and linker flags, such as -fsanitize=address (see the Makefile).
WSDAN_CUDA and WSDAN_CUDA_ARCHS choose what cuda_build.py builds.
"""

import os
import sys
from pathlib import Path

from setuptools import setup
from setuptools.errors import SetupError

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # an isolated build does not look here

import cuda_build  # noqa: E402

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
    """The arguments of setup() that build `wsdan_kernels/_cpu` and then `wsdan_kernels/_cuda`."""
    if os.environ.get("WSDAN_NATIVE", "1") == "0":
        return {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    class BuildBoth(BuildExtension):
        def run(self):
            super().run()
            beside = Path(self.get_ext_fullpath("wsdan_kernels._cpu"))
            try:
                cuda_build.build(beside.with_name(beside.name.replace("_cpu", "_cuda", 1)))
            except (cuda_build.CannotBuildError, ValueError) as error:
                raise SetupError(f"the CUDA operators: {error}") from error

    cpu = CppExtension(
        "wsdan_kernels._cpu",
        sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc/cpu").rglob("*.cpp")),
        depends=sorted(
            str(path.relative_to(ROOT))
            for folder in ("common", "cpu", "torch")
            for path in (ROOT / "csrc" / folder).rglob("*.h")
        ),
        define_macros=cuda_build.STABLE_ABI,
        extra_compile_args=COMPILER_FLAGS,
        extra_link_args=os.environ.get("WSDAN_CPU_FLAGS", "").split(),
        py_limited_api=True,
    )
    return {
        "ext_modules": [cpu],
        "cmdclass": {"build_ext": BuildBoth},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


if __name__ == "__main__":
    setup(**native_build())
