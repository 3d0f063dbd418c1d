"""Compiles .cu files with g++ into a library that runs their kernels on the CPU.

Two kinds: "thread" finds races and shared memory out of bounds, "address" is AddressSanitizer's and
UndefinedBehaviorSanitizer's, for a process that has their libraries loaded first. Libraries lie in
build/cuda-emulator/, named after what they are made of.
"""

import functools
import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
OUT = ROOT / "build" / "cuda-emulator"
COMPILER = os.environ.get("CXX", "g++")
KINDS = ("thread", "address")
_COMMON = ("-std=c++20", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-psabi")
# As nvcc's --fmad=false and setup.py: a fused multiply-add is written where it is meant.
_KERNELS = ("-O1", "-ffp-contract=off", "-Wno-unknown-pragmas", "-fvisibility=default")
_ASAN = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
_STABLE_ABI = ("-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY", "-DUSE_CUDA")


def kind() -> str:
    """What WSDAN_EMULATOR asks for: "thread", or "address" in `make sanitize`."""
    chosen = os.environ.get("WSDAN_EMULATOR", "thread")
    if chosen not in KINDS:
        raise ValueError(f"WSDAN_EMULATOR must be one of {KINDS}, but is {chosen!r}")
    return chosen


def missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    return None if shutil.which(COMPILER) else f"no C++ compiler {COMPILER!r}"


def operators() -> Path:
    """The library of csrc/cuda: its operators in the namespace wsdan_emulated, on the CPU."""
    torch_folder = Path(torch.__file__).parent
    headers = ("-isystem", str(torch_folder / "include"), "-include", "prelude.h")
    folder = ROOT / "csrc" / "cuda"
    sources = [*sorted(folder.rglob("*.cu")), folder / "operators.cpp"]
    libraries = (f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10")
    return _library("operators", sources, (*_STABLE_ABI, *headers), libraries)


def planted() -> Path:
    """The library of planted.cu: kernels with faults, and the same kernels without."""
    return _library("planted", [HERE / "planted.cu"], (), ())


def _library(name: str, sources: list[Path], flags: tuple[str, ...], link: tuple[str, ...]) -> Path:
    """The library made of these sources and the emulator, compiled where it is not there yet."""
    runtime, kernels = _flags(kind())
    works = [(path, (*kernels, *flags)) for path in sources]
    works += [(path, runtime) for path in sorted(HERE.glob("*.cpp"))]
    if kind() == "address":
        link = (*link, *_ASAN)
    target = OUT / f"{name}-{kind()}-{_digest(works, link)}.so"
    if not target.exists():
        OUT.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(_compiled, works))
        # -Bsymbolic: of what torch and the emulator both have, the emulator's own.
        command = [COMPILER, "-shared", "-Wl,-Bsymbolic,-z,defs", *map(str, objects), *link]
        _run_to(target, command)
    return target


def _flags(chosen: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compiler flags for the emulator itself, and for kernels."""
    include = f"-I{HERE / 'include'}"
    if chosen == "address":
        return (*_COMMON, "-O2", "-DEMULATOR_ASAN"), (
            *_COMMON, *_KERNELS, *_ASAN, "-fno-wrapv", include,
        )  # fmt: skip
    return (*_COMMON, "-O2"), (*_COMMON, *_KERNELS, "-fsanitize=thread", include)


def _compiled(work: tuple[Path, tuple[str, ...]]) -> Path:
    source, flags = work
    target = OUT / f"{source.stem}-{_digest([work], ())}.o"
    if not target.exists():
        _run_to(target, [COMPILER, "-c", *flags, "-x", "c++", str(source)])
    return target


def _run_to(target: Path, command: list[str]) -> None:
    """Another process that builds the same meanwhile does no harm."""
    own = target.with_suffix(f".{os.getpid()}{target.suffix}")
    result = _run([*command, "-o", str(own)])
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    own.rename(target)


def _digest(works, link) -> str:
    """Of the sources, every header they may include, the flags, the compiler and torch."""
    found = hashlib.sha256(f"{_compiler()} {torch.__version__}".encode())
    headers = [path for folder in (ROOT / "csrc", HERE) for path in folder.rglob("*.[hc]*")]
    headers = [path for path in headers if path.suffix in (".h", ".cuh")]
    for path in sorted(headers):
        found.update(path.read_bytes())
    found.update(" ".join(link).encode())
    for source, flags in works:
        found.update(" ".join([str(source), *flags]).encode())
        found.update(source.read_bytes())
    return found.hexdigest()[:16]


@functools.cache
def _compiler() -> str:
    return _run([COMPILER, "--version"]).stdout


def _run(command: list[str]) -> subprocess.CompletedProcess:
    """Without the sanitizers' libraries, which may be loaded into this process."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)
