"""Builds the CUDA operators, wsdan_kernels/_cuda, with nvcc.

For setup.py and tests/gpu/cuda_report.py.

Objects stay in build/cuda/ARCHS, each beside what ptxas said of its kernels, and are compiled again
when a source, a header or a flag changes. The library holds machine code for each architecture and
PTX of the lowest, has its CUDA runtime linked in, and loads without a driver. The environment
chooses:

WSDAN_CUDA=1: an error where it cannot be built; 0: left out; else built where that is possible.
WSDAN_CUDA_ARCHS: compile for these only, such as "90" or "8.0;9.0".
CUDA_HOME: the toolkit; else the nvcc in PATH, or that of /usr/local/cuda.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent
ARCHS = (80, 86, 89, 90, 100, 120)
OLDEST = 80
CONVENTIONAL = "/usr/local/cuda"
STABLE_ABI = [
    ("TORCH_TARGET_VERSION", "0x020b000000000000"),  # torch 2.11
    ("TORCH_STABLE_ONLY", None),
]
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
    *(f"-D{name}" + (f"={value}" if value else "") for name, value in STABLE_ABI),
]
NOTE = "_cuda_missing.txt"  # beside where the library would be: why it is not there


class CannotBuildError(Exception):
    """Why there is no CUDA library, in one line."""


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
    import torch

    if torch.version.cuda is None:
        raise CannotBuildError("the torch it was to be built for has no CUDA")
    homes = [environment["CUDA_HOME"]] if environment.get("CUDA_HOME") else []
    found = [shutil.which("nvcc", path=os.path.join(home, "bin")) for home in homes]
    found.append(shutil.which("nvcc", path=environment.get("PATH", "")))
    found.append(shutil.which("nvcc", path=os.path.join(CONVENTIONAL, "bin")))
    nvcc = next(filter(None, found), None)
    if nvcc is None:
        raise CannotBuildError(f"no nvcc in CUDA_HOME, in PATH or in {CONVENTIONAL}")
    return nvcc


def usable_archs(nvcc: str, wanted: str) -> list[int]:
    """What to compile for, lowest first: the wanted architectures, or ARCHS less what nvcc lacks.

    wanted: "90", "80;90", "8.0, 9.0" or "".
    """
    codes = _output([nvcc, "--list-gpu-code"])
    known = {int(code) for code in re.findall(r"sm_(\d+)\b", codes)}
    named = parse_archs(wanted)
    lacking = [str(arch) for arch in named or ARCHS if arch not in known]
    if lacking and named:
        raise CannotBuildError(f"{nvcc} does not know sm_{', sm_'.join(lacking)}")
    if lacking:
        print(f"NOTE: {nvcc} is too old for sm_{', sm_'.join(lacking)}: left out", file=sys.stderr)
    return [arch for arch in named or ARCHS if arch in known]


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
    """The objects of the .cu files of csrc/cuda, compiled where they are not up to date."""
    folder = ROOT / "build" / "cuda" / "-".join(map(str, archs))
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted((ROOT / "csrc" / "cuda").rglob("*.cu"))
    processors = int(os.environ.get("MAX_JOBS", 0)) or len(os.sched_getaffinity(0))
    codes = [*(f"sm_{arch}" for arch in archs), f"compute_{archs[0]}"]
    flags = [*FLAGS, *_gencode(archs), f"-DWSDAN_CUDA_ARCHS={' '.join(codes)}"]
    threads = max(1, processors // len(sources))  # of one nvcc, for its architectures
    with ThreadPoolExecutor(max_workers=processors) as pool:
        return list(pool.map(lambda path: _compile(nvcc, path, folder, flags, threads), sources))


def report_of(built: Path) -> Path:
    """Where the command and what ptxas said of an object's kernels stand."""
    return built.with_suffix(".ptxas.txt")


def _gencode(archs: list[int]) -> list[str]:
    """Machine code for each, and PTX of the lowest for GPUs that have none."""
    first, *others = archs
    return [
        f"-gencode=arch=compute_{first},code=[sm_{first},compute_{first}]",
        *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in others),
    ]


def _compile(nvcc: str, source: Path, folder: Path, flags: list[str], threads: int) -> Path:
    built = folder / f"{source.stem}.o"
    report = report_of(built)
    # The include path is no part of it: any torch's headers give the same stable ABI, and an
    # isolated build has another path each time.
    command = " ".join([nvcc, *flags])
    headers = [path for end in ("*.h", "*.cuh") for path in (ROOT / "csrc").rglob(end)]
    newest = max(path.stat().st_mtime for path in (source, *headers))
    if built.exists() and report.exists() and built.stat().st_mtime > newest:
        with report.open(encoding="utf-8") as lines:
            if lines.readline().rstrip("\n") == command:
                return built
    built.unlink(missing_ok=True)
    sys.stderr.write(f"nvcc {source.relative_to(ROOT)}\n")
    arguments = [*flags, f"-I{_torch_folder('include')}", f"--threads={threads}"]
    said = _output([nvcc, *arguments, "-c", str(source), "-o", str(built)])
    report.write_text(f"{command}\n{said}", encoding="utf-8")
    return built


def link(nvcc: str, objects: list[Path], library: Path) -> None:
    """Link the objects; what they need of torch_cuda they find through torch, which names it."""
    sys.stderr.write(f"nvcc {library.name}\n")
    library.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["-shared", "--cudart=static", "-Xlinker=--no-as-needed"]
    arguments += [f"-L{_torch_folder('lib')}", "-ltorch", "-ltorch_cpu"]
    _output([nvcc, *arguments, *map(str, objects), "-o", str(library)])


def _torch_folder(name: str) -> Path:
    import torch

    return Path(torch.__file__).parent / name


def _output(command: list[str]) -> str:
    """What the command prints; raises CannotBuildError with its first error where it fails."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        print(result.stdout, file=sys.stderr)
        lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if re.search(r"\b(error|fatal)\b", line)]
        reason = (errors or lines or ["no output"])[0]
        raise CannotBuildError(f"{command[0]} failed ({result.returncode}): {reason}")
    return result.stdout
