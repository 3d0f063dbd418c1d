"""Builds the C++ operators, wsdan_kernels/_cpu, with the compiler that CXX names, or c++.

Objects stay in build/cpu, in a folder for each set of flags. WSDAN_CPU_FLAGS adds flags of the
compiler and the linker, such as -fsanitize=address (see the Makefile).
"""

import hashlib
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from native_build.objects import ROOT, STABLE_ABI, compile_all, output, torch_folder

FLAGS = [
    "-std=c++20",
    "-O3",
    "-DNDEBUG",
    "-fPIC",
    "-fwrapv",
    # No contraction: a fused multiply-add is written where it is meant, so that all builds round
    # alike. Neither errno nor traps: they would keep roots and comparisons out of vectors.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-psabi",  # vectors are passed between inlined functions only
    *STABLE_ABI,
]


def build(library: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Build `library`. Raises CannotBuildError."""
    compiler = environment.get("CXX") or "c++"
    more = environment.get("WSDAN_CPU_FLAGS", "").split()
    flags = [*FLAGS, *more]
    kind = hashlib.sha256(" ".join([compiler, *flags]).encode()).hexdigest()[:8]
    sources = sorted((ROOT / "csrc" / "cpu").rglob("*.cpp"))
    objects = compile_all(compiler, flags, sources, ROOT / "build" / "cpu" / kind)
    library.parent.mkdir(parents=True, exist_ok=True)
    torch = [f"-L{torch_folder('lib')}", "-lc10", "-ltorch_cpu"]
    output(
        [*shlex.split(compiler), "-shared", *more, *map(str, objects), *torch, "-o", str(library)]
    )
