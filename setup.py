"""Builds the C++ and CUDA operators of wsdan_kernels; everything else stands in pyproject.toml.

They go through libtorch's stable ABI: built once, they load under every torch from 2.11 on.
WSDAN_NATIVE=0 skips both (the plain PyTorch operators then run, and `wsdan info` says so).
WSDAN_CPU_FLAGS, WSDAN_CUDA and WSDAN_CUDA_ARCHS choose what native_build/ builds.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent  # release/ links to this file
sys.path.insert(0, str(ROOT))  # an isolated build does not look here

from native_build import cpu, cuda, objects  # noqa: E402


class BuildNative(build_ext):
    """Builds wsdan_kernels/_cpu, and wsdan_kernels/_cuda beside it, both at once."""

    def run(self) -> None:
        library = Path(self.get_ext_fullpath("wsdan_kernels._cpu"))
        beside = library.with_name(library.name.replace("_cpu", "_cuda", 1))
        try:
            with ThreadPoolExecutor(2) as pool:
                for built in (pool.submit(cpu.build, library), pool.submit(cuda.build, beside)):
                    built.result()
        except (objects.CannotBuildError, ValueError) as error:
            raise SetupError(f"the native operators: {error}") from error


def native_build() -> dict:
    """The arguments of setup() that build both libraries."""
    if os.environ.get("WSDAN_NATIVE", "1") == "0":
        return {}
    return {
        "ext_modules": [Extension("wsdan_kernels._cpu", [], py_limited_api=True)],
        "cmdclass": {"build_ext": BuildNative},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


if __name__ == "__main__":
    setup(**native_build())
