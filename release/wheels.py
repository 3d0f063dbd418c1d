"""Builds what a release consists of into dist/: python -m release.wheels [program cpu cuda sdist].

program: wsdan, plain Python. cpu and cuda: wsdan-kernels for Linux, without and with the CUDA
library for all architectures; both load under every torch from 2.11 on and every Python from 3.10
on, and hold no part of torch. The wheel without CUDA has the version VERSION+cpu. sdist: all of it
as source. Needs torch and the extra `release`; compiles what build/ does not hold already.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from release.distributions import KERNELS, PROGRAM, ROOT, lay_out, version

STAGES = ROOT / "build" / "wheels"
DIST = ROOT / "dist"
# Loaded before our libraries, which are opened by torch.ops.load_library.
OF_TORCH = ("libc10.so", "libtorch.so", "libtorch_cpu.so")
ENVIRONMENTS = {
    "program": {"WSDAN_NATIVE": "0"},
    "cpu": {"WSDAN_CUDA": "0"},
    "cuda": {"WSDAN_CUDA": "1", "WSDAN_CUDA_ARCHS": os.environ.get("WSDAN_CUDA_ARCHS", "all")},
}


def build(kind: str, dist: Path = DIST) -> Path:
    """The wheel of this kind, in `dist`."""
    stage = STAGES / kind
    lay_out(PROGRAM if kind == "program" else KERNELS, stage)
    label = ["--tag-build=+cpu"] if kind == "cpu" else []
    made = dist if kind == "program" else stage / "linux"
    run_setup(stage, ENVIRONMENTS[kind], "egg_info", *label, "bdist_wheel", f"--dist-dir={made}")
    name = "wsdan" if kind == "program" else "wsdan_kernels"
    (wheel,) = made.glob(f"{name}-{version()}*.whl")
    return wheel if kind == "program" else repair(wheel, dist)


def run_setup(folder: Path, environment: dict[str, str], *commands: str) -> None:
    command = [sys.executable, "setup.py", "-q", *commands]
    subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **environment},
        check=True,
    )


def repair(wheel: Path, dist: Path) -> Path:
    """Tag a wheel by the oldest glibc that has what its libraries ask for."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    excluded = [f"--exclude={name}" for name in OF_TORCH]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "auditwheel",
            "repair",
            *excluded,
            f"--wheel-dir={dist}",
            str(wheel),
        ],
        env={**os.environ, "PATH": tools},  # where patchelf is
        check=True,
    )
    name = "-".join(wheel.name.split("-")[:4])  # but for the platform
    (repaired,) = dist.glob(f"{name}-*.whl")
    return repaired


def build_sdist(dist: Path = DIST) -> Path:
    """The whole checkout's sources, csrc and native_build with them, from which pip can build."""
    base = STAGES / "sdist"
    shutil.rmtree(base, ignore_errors=True)  # whose list of files setuptools would go on with
    base.mkdir(parents=True)
    run_setup(ROOT, {}, "egg_info", f"--egg-base={base}", "sdist", f"--dist-dir={dist}")
    (archive,) = dist.glob(f"wsdan-{version()}.tar.gz")
    return archive


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = [*ENVIRONMENTS, "sdist"]
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(kinds)}; all")
    options = parser.parse_args()
    unknown = set(options.kinds) - set(kinds)
    if unknown:
        parser.error(f"no kind {min(unknown)}; there are {', '.join(kinds)}")
    DIST.mkdir(exist_ok=True)
    for kind in options.kinds or kinds:
        made = build_sdist() if kind == "sdist" else build(kind)
        print(f"{made.relative_to(ROOT)}  {made.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
