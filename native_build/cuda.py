"""Builds the CUDA operators, wsdan_kernels/_cuda, with nvcc.

Objects stay in build/cuda/ARCHS, each beside what ptxas said of its kernels. The library holds
machine code for each architecture and PTX of the lowest, which a driver compiles for GPUs that have
none; it has its CUDA runtime linked in, and loads without a driver. The environment chooses:

WSDAN_CUDA=1: an error where it cannot be built; 0: left out; else built where that is possible.
WSDAN_CUDA_ARCHS: "all", as in a wheel; or these only, such as "90" or "8.0;9.0"; by default those
of the GPUs that are here, and without one COMMON.
CUDA_HOME: the toolkit; else the nvcc in PATH, or that of /usr/local/cuda.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from native_build import objects
from native_build.objects import ROOT, STABLE_ABI, CannotBuildError, output, torch_folder

ARCHS = (80, 86, 89, 90, 100, 120)
COMMON = (80, 90)  # of data centres: A100, H100 and H200
OLDEST = 80
ALL = "all"
CONVENTIONAL = "/usr/local/cuda"
FLAGS = [
    "-std=c++20",
    "-O3",
    # No contraction, on the device and in the launchers: a fused multiply-add is written where it
    # is meant, so that the CPU's operators round alike.
    "--fmad=false",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off,-Wall",
    "--expt-relaxed-constexpr",
    "-Xptxas=-v",
    "-DUSE_CUDA",
    *STABLE_ABI,
]
NOTE = "_cuda_missing.txt"  # beside where the library would be: why it is not there


def build(library: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Build `library`, or leave a note in its place that says why not.

    Raises CannotBuildError where WSDAN_CUDA=1 asks for it, ValueError where WSDAN_CUDA or
    WSDAN_CUDA_ARCHS has a wrong value.
    """
    note = library.with_name(NOTE)
    try:
        nvcc = usable_nvcc(environment)
        archs = usable_archs(nvcc, environment.get("WSDAN_CUDA_ARCHS", ""))
        link(nvcc, compile_all(nvcc, archs), library)
    except CannotBuildError as error:
        # A library of another day would be taken for this one, whatever its schemas.
        library.unlink(missing_ok=True)
        note.write_text(f"{error}\n", encoding="utf-8")
        if environment.get("WSDAN_CUDA") == "1":
            raise
        print(f"NOTE: the CUDA operators are not built: {error}", file=sys.stderr)
    else:
        note.unlink(missing_ok=True)


def usable_nvcc(environment: Mapping[str, str]) -> str:
    """The nvcc to build with; raises CannotBuildError where there is none, or it is not wanted."""
    wanted = environment.get("WSDAN_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise ValueError(f"WSDAN_CUDA must be 0 or 1, but got {wanted!r}")
    if wanted == "0":
        raise CannotBuildError("WSDAN_CUDA=0 left it out")
    if not sys.platform.startswith("linux"):
        raise CannotBuildError("the CUDA operators are for Linux")
    if not torch_has_cuda():
        raise CannotBuildError("the torch it was to be built for has no CUDA")
    homes = [environment["CUDA_HOME"]] if environment.get("CUDA_HOME") else []
    found = [shutil.which("nvcc", path=os.path.join(home, "bin")) for home in homes]
    found.append(shutil.which("nvcc", path=environment.get("PATH", "")))
    found.append(shutil.which("nvcc", path=os.path.join(CONVENTIONAL, "bin")))
    nvcc = next(filter(None, found), None)
    if nvcc is None:
        raise CannotBuildError(f"no nvcc in CUDA_HOME, in PATH or in {CONVENTIONAL}")
    return nvcc


def torch_has_cuda() -> bool:
    """Whether the installed torch was built with CUDA; it is not imported, which takes seconds."""
    version = (torch_folder() / "version.py").read_text(encoding="utf-8")
    return re.search(r"^cuda\b.*=\s*['\"]", version, re.MULTILINE) is not None


def usable_archs(nvcc: str, wanted: str) -> list[int]:
    """What to compile for, lowest first: the wanted architectures, less what nvcc lacks of `all`.

    wanted: "90", "80;90", "8.0, 9.0", "all", or "" for the GPUs that are here.
    """
    known = {int(code) for code in re.findall(r"sm_(\d+)\b", output([nvcc, "--list-gpu-code"]))}
    named = [] if wanted == ALL else parse_archs(wanted)
    archs = list(ARCHS) if wanted == ALL else named or archs_here()
    lacking = ", ".join(f"sm_{arch}" for arch in archs if arch not in known)
    if lacking and named:
        raise CannotBuildError(f"{nvcc} does not know {lacking}")
    if lacking:
        print(f"NOTE: {nvcc} is too old for {lacking}: left out", file=sys.stderr)
    usable = [arch for arch in archs if arch in known]
    return usable or [arch for arch in COMMON if arch in known]  # newer GPUs compile their PTX


def archs_here() -> list[int]:
    """Those of this machine's GPUs, from OLDEST on; without one COMMON, with a note."""
    try:
        command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        said = ""
    found = re.findall(r"^(\d+)\.(\d)$", said, re.MULTILINE)
    archs = sorted({arch for arch in map(int, map("".join, found)) if arch >= OLDEST})
    if archs:
        return archs
    print(
        f"NOTE: no GPU of compute capability {OLDEST / 10} or newer is here: the CUDA operators "
        f"are built for {' and '.join(f'sm_{arch}' for arch in COMMON)}, with PTX for others; "
        "WSDAN_CUDA_ARCHS=all builds for all",
        file=sys.stderr,
    )
    return list(COMMON)


def parse_archs(text: str) -> list[int]:
    """ "80;9.0" as [80, 90]: in order, each once."""
    archs = set()
    for part in filter(None, re.split(r"[;,\s]+", text)):
        match = re.fullmatch(r"(\d+)\.(\d)|(\d+)", part)
        arch = int(re.sub(r"\D", "", part)) if match else 0
        if arch < OLDEST:
            rule = f"WSDAN_CUDA_ARCHS must name architectures from {OLDEST} on, such as 80;90"
            raise ValueError(f"{rule}, but got {part!r}")
        archs.add(arch)
    return sorted(archs)


def compile_all(nvcc: str, archs: list[int]) -> list[Path]:
    """The objects of csrc/cuda, compiled where they are not up to date."""
    folder = ROOT / "build" / "cuda" / "-".join(map(str, archs))
    sources = sorted(
        path for kind in ("*.cu", "*.cpp") for path in (ROOT / "csrc" / "cuda").rglob(kind)
    )
    codes = [*(f"sm_{arch}" for arch in archs), f"compute_{archs[0]}"]
    threads = max(1, objects.processors() // len(sources))  # of one nvcc, for its architectures
    flags = [*FLAGS, *_gencode(archs), f"-DWSDAN_CUDA_ARCHS={' '.join(codes)}"]
    return objects.compile_all(nvcc, [*flags, f"--threads={threads}"], sources, folder)


def _gencode(archs: list[int]) -> list[str]:
    """Machine code for each, and PTX of the lowest for GPUs that have none."""
    first, *others = archs
    return [
        f"-gencode=arch=compute_{first},code=[sm_{first},compute_{first}]",
        *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in others),
    ]


def link(nvcc: str, built: list[Path], library: Path) -> None:
    """Link the objects; what they need of torch_cuda they find through torch, which names it."""
    library.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["-shared", "--cudart=static", "-Xlinker=--no-as-needed"]
    # In the toolkit of PyPI the runtime is in lib, where its nvcc does not look.
    folders = [torch_folder("lib"), Path(nvcc).resolve().parents[1] / "lib"]
    arguments += [*(f"-L{folder}" for folder in folders), "-ltorch", "-ltorch_cpu"]
    output([nvcc, *arguments, *map(str, built), "-o", str(library)])
