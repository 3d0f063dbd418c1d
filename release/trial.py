"""Tries the wheels of dist/ where no compiler is: python -m release.trial [--python 3.11 ...].

Each pair of a Python and a torch has a fresh environment of some 6 GB, which is removed again:
wsdan info, the tests below, and an epoch on the embedded dataset. Ends with a table.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from release.wheels import DIST, ROOT

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
TORCHES = ("2.11.0", "newest")
# The interpreter of triton 3.6, which the tests use where no GPU is, fails with numpy 2.4.
BESIDE = {"2.11.0": ("numpy<2.4",)}
NEEDED = ("pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6")
TESTS = [
    f"tests/kernels/test_{name}.py" for name in ("native", "golden", "boxes", "registered", "ops")
]
LOADS = "import sys; from wsdan_kernels import _native; sys.exit(_native.failure('{}'))"


def interpreter(version: str) -> str | None:
    """The Python of this version: one of pyenv's, whose shims in PATH need not run, or in PATH."""
    kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    return str(kept[-1]) if kept else shutil.which(f"python{version}")


def wheels(kind: str) -> list[Path]:
    """That of the program, and that of the operators."""
    kernels = DIST.glob("wsdan_kernels-*.whl")
    found = [path for path in kernels if ("+cpu-" in path.name) == (kind == "cpu")]
    found += DIST.glob("wsdan-*.whl")
    if len(found) != 2:
        raise SystemExit(f"dist/ holds {len(found)} of the two wheels: see `make wheels`")
    return found


def tried(python: str, torch: str, kind: str, folder: Path) -> str:
    """What came of it: "passed", or the step that failed."""
    environment = folder / "env"
    subprocess.run([python, "-m", "venv", str(environment)], check=True)
    programs = environment / "bin"
    wanted = "torch" if torch == "newest" else f"torch=={torch}"
    more = (*BESIDE.get(torch, ()), *NEEDED)
    steps = {
        "install": ["pip", "install", "-q", wanted, *map(str, wheels(kind)), *more],
        # -I: of the wheel, not of the checkout. Without a driver the CUDA library loads too.
        "load": ["python", "-I", "-c", LOADS.format(kind)],
        "info": ["wsdan", "info"],
        "tests": ["pytest", "-m", "not slow", *TESTS],
        "train": ["wsdan", "train", "--epochs", "1", "--out", str(folder / "run")],
    }
    # Nothing but this environment's programs: no compiler.
    alone = {**os.environ, "PATH": str(programs)}
    alone.pop("PYTHONPATH", None)
    for name, (program, *arguments) in steps.items():
        command = [str(programs / program), *arguments]
        if subprocess.run(command, cwd=ROOT, env=alone).returncode != 0:
            return f"{name} failed"
    return "passed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", default=PYTHONS, metavar="VERSION")
    parser.add_argument("--torch", nargs="+", default=TORCHES, metavar="VERSION")
    parser.add_argument("--kind", choices=("cpu", "cuda"), default="cpu", help="of wheel")
    options = parser.parse_args()
    rows = []
    for version in options.python:
        python = interpreter(version)
        for torch in options.torch if python else ():
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                result = tried(python, torch, options.kind, Path(folder))
            rows.append((version, torch, result, f"{time.monotonic() - start:.0f} s"))
        if python is None:
            rows.append((version, "-", "no such Python here", ""))
    print("\n".join(f"{a:<8}{b:<10}{c:<22}{d}" for a, b, c, d in rows))
    return 0 if all(row[2] in ("passed", "no such Python here") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
