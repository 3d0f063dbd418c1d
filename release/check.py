"""Says what a release of this checkout lacks, and changes nothing: python -m release.check.

The version stands in wsdan_kernels/_version.py. CHANGELOG.md must have a dated heading for it and
nothing left under Unreleased, CITATION.cff and the tag must name it, and dist/ must hold its
wheels and its archive, as `make wheels` builds them.
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from release.distributions import ROOT, version

WHEELS = {
    "wsdan-{}-py3-none-any.whl": (),
    "wsdan_kernels-{}-cp310-abi3-manylinux_*.whl": ("_cpu.abi3.so", "_cuda.abi3.so"),
    "wsdan_kernels-{}+cpu-cp310-abi3-manylinux_*.whl": ("_cpu.abi3.so",),
}


def changelog_lacks(text: str, wanted: str) -> list[str]:
    """text: of CHANGELOG.md."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    entries = dict(zip(parts[1::2], parts[2::2], strict=True))
    lacks = []
    if "- " in entries.get("Unreleased", ""):
        lacks.append("CHANGELOG.md: entries stand under Unreleased")
    dated = [
        title
        for title in entries
        if re.fullmatch(rf"{re.escape(wanted)} \(\d{{4}}-\d\d-\d\d\)", title)
    ]
    if not dated:
        lacks.append(f"CHANGELOG.md: no heading `## {wanted} (YYYY-MM-DD)`")
    elif "- " not in entries[dated[0]]:
        lacks.append(f"CHANGELOG.md: nothing stands under {dated[0]}")
    return lacks


def citation_lacks(text: str, wanted: str) -> list[str]:
    """text: of CITATION.cff."""
    named = re.search(r"^version: (.*)$", text, re.MULTILINE)
    return [] if named and named[1] == wanted else [f"CITATION.cff: version is not {wanted}"]


def repository_lacks(root: Path, wanted: str) -> list[str]:
    """A tag at this commit, and no change after it."""
    lacks = []
    if f"v{wanted}" not in _git(root, "tag", "--points-at", "HEAD").split():
        lacks.append(f"git: the tag v{wanted} is not at this commit")
    if _git(root, "status", "--porcelain", "--untracked-files=no"):
        lacks.append("git: files have changed since the commit")
    return lacks


def dist_lacks(dist: Path, wanted: str) -> list[str]:
    """The archive, and the wheels with their libraries and without any of torch's."""
    lacks = []
    if not (dist / f"wsdan-{wanted}.tar.gz").exists():
        lacks.append(f"dist: no wsdan-{wanted}.tar.gz")
    for pattern, libraries in WHEELS.items():
        found = list(dist.glob(pattern.format(wanted)))
        if len(found) != 1:
            lacks.append(f"dist: {len(found)} of {pattern.format(wanted)}")
            continue
        with zipfile.ZipFile(found[0]) as wheel:
            held = sorted(Path(name).name for name in wheel.namelist() if ".so" in name)
        if held != sorted(libraries):
            lacks.append(f"dist: {found[0].name} holds {held}, not {sorted(libraries)}")
    return lacks


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    wanted = version()
    lacks = [
        *changelog_lacks((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), wanted),
        *citation_lacks((ROOT / "CITATION.cff").read_text(encoding="utf-8"), wanted),
        *repository_lacks(ROOT, wanted),
        *dist_lacks(ROOT / "dist", wanted),
    ]
    print("\n".join(lacks) or f"{wanted} can be released")
    return 1 if lacks else 0


if __name__ == "__main__":
    sys.exit(main())
