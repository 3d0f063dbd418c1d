"""Compiles sources to objects, those that are not up to date, several at once: those of both
libraries, which setup.py builds side by side, wait for the same processors.

An object is up to date if it is newer than its source and the headers that it includes, and was
made by the same command. The headers of torch do not count: those of any version give the same
stable ABI, and an isolated build unpacks them anew. Where ccache is installed, compilers run
through it.
"""

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDEST_TORCH = "2.11"
STABLE_ABI = [
    "-DTORCH_TARGET_VERSION=0x020b000000000000",  # OLDEST_TORCH
    "-DTORCH_STABLE_ONLY",
]


class CannotBuildError(Exception):
    """Why there is no library, in one line."""


def processors() -> int:
    """How many compilers run at once: MAX_JOBS, or one for each processor."""
    return int(os.environ.get("MAX_JOBS", 0)) or len(os.sched_getaffinity(0))


@functools.cache
def compilers() -> ThreadPoolExecutor:
    """What all compilers of this process run in."""
    return ThreadPoolExecutor(max_workers=processors())


def torch_folder(name: str = "") -> Path:
    """A folder of installed_torch(). Raises CannotBuildError."""
    found = installed_torch()
    if found is None:
        raise CannotBuildError(f"no torch of {OLDEST_TORCH} or newer, whose headers it needs")
    return found / name


def installed_torch() -> Path | None:
    """The folder of a torch to build with, which is not imported: one that Python finds, else that
    of the environment, which an isolated build hides from it; None if there is none new enough."""
    spec = importlib.util.find_spec("torch")
    seen = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    hidden = Path(sysconfig.get_path("platlib")) / "torch"
    return next((path for path in (*seen, hidden) if _new_enough(path)), None)


def _new_enough(torch: Path) -> bool:
    try:
        text = (torch / "version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    found = re.search(r"^__version__ = ['\"](\d+)\.(\d+)", text, re.MULTILINE)
    oldest = tuple(map(int, OLDEST_TORCH.split(".")))
    return found is not None and tuple(map(int, found.groups())) >= oldest


def compile_all(
    compiler: str, flags: Sequence[str], sources: Sequence[Path], folder: Path
) -> list[Path]:
    """The objects of the sources, in `folder`; largest sources first, which take longest.

    Raises CannotBuildError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order = sorted(sources, key=lambda path: -path.stat().st_size)
    return list(compilers().map(lambda path: _compile(compiler, flags, path, folder), order))


def notes_of(built: Path) -> Path:
    """Where the command of an object stands, and after it what the compiler said."""
    return built.with_suffix(".said.txt")


def _compile(compiler: str, flags: Sequence[str], source: Path, folder: Path) -> Path:
    built = folder / f"{source.stem}.o"
    notes, headers = notes_of(built), built.with_suffix(".d")
    command = shlex.join([compiler, *flags])
    if _up_to_date(built, command, headers):
        return built
    built.unlink(missing_ok=True)
    sys.stderr.write(f"{Path(compiler).name} {source.relative_to(ROOT)}\n")
    cache = [ccache] if (ccache := shutil.which("ccache")) else []
    # -isystem: left out of the headers that -MMD lists, and no part of the command.
    include = ["-isystem", str(torch_folder("include"))]
    where = ["-MMD", "-MF", str(headers), "-c", str(source), "-o", str(built)]
    said = output([*cache, *shlex.split(compiler), *flags, *include, *where])
    notes.write_text(f"{command}\n{said}", encoding="utf-8")
    return built


def _up_to_date(built: Path, command: str, headers: Path) -> bool:
    notes = notes_of(built)
    if not (built.exists() and notes.exists() and headers.exists()):
        return False
    with notes.open(encoding="utf-8") as lines:
        if lines.readline().rstrip("\n") != command:
            return False
    _, _, listed = headers.read_text(encoding="utf-8").partition(":")
    paths = [Path(name) for name in shlex.split(listed.replace("\\\n", " "))]
    made = built.stat().st_mtime
    return all(path.exists() and path.stat().st_mtime < made for path in paths)


def output(command: Sequence[str]) -> str:
    """What the command prints; raises CannotBuildError with its first error where it fails."""
    try:
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        raise CannotBuildError(f"{command[0]} cannot run: {error.strerror}") from None
    if result.returncode != 0:
        print(result.stdout, file=sys.stderr)
        lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if re.search(r"\b(error|fatal)\b", line)]
        reason = (errors or lines or ["no output"])[0]
        raise CannotBuildError(f"{command[0]} failed ({result.returncode}): {reason}")
    return result.stdout
