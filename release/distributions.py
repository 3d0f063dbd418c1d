"""The two distributions of a release, each with a pyproject.toml made from that of the checkout.

wsdan-kernels has the package wsdan_kernels and its libraries, and needs torch, triton and numpy
only. wsdan has the program, is plain Python, and needs the wsdan-kernels of its version. In the
checkout both are one project, which `pip install -e .` installs and builds in one step.
"""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILT = ("*.so", "__pycache__", "_cuda_missing.txt")  # in the checkout; a wheel has its own
KERNELS, PROGRAM = "wsdan-kernels", "wsdan"
NEEDED = re.compile(r'^    "(?:torch|triton|numpy)\b(?!vision).*\n', re.MULTILINE)


def version() -> str:
    """That of every distribution; it stands in wsdan_kernels/_version.py alone."""
    text = (ROOT / "wsdan_kernels" / "_version.py").read_text(encoding="utf-8")
    return re.fullmatch(r'VERSION = "(.+)"\n', text)[1]


def project(name: str) -> str:
    """The pyproject.toml of a distribution."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[\n(.*?)^\]\n", text, re.MULTILINE | re.DOTALL)[1]
    if name == PROGRAM:
        needed = f'    "{KERNELS}=={version()}",\n{listed}'
        return _with(text, needed, '"wsdan", "wsdan.*"')
    text = _replaced(text, r'^name = "wsdan"$', f'name = "{KERNELS}"')
    text = _replaced(text, r"^description = .*$", 'description = "Fused operators of WS-DAN"')
    text = _replaced(text, r"^\[project\.optional-dependencies\]\n(?:.+\n)*", "")
    text = _replaced(text, r"^\[project\.scripts\]\n(?:.+\n)*", "")
    return _with(text, "".join(NEEDED.findall(listed)), '"wsdan_kernels*"')


def lay_out(name: str, folder: Path) -> None:
    """Make `folder` a project of this distribution alone: pyproject.toml, setup.py, packages."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(project(name), encoding="utf-8")
    for file in ("setup.py", "README.md", "LICENSE"):
        (folder / file).symlink_to(ROOT / file)  # setup.py finds native_build where it stands
    packages = ("wsdan_kernels",) if name == KERNELS else ("wsdan", "wsdan_kernels")  # the version
    for package in packages:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns(*BUILT))


def _with(text: str, needed: str, packages: str) -> str:
    lines = f"dependencies = [\n{needed}]\n"
    text = _replaced(text, r"^dependencies = \[\n(?: .*\n)*\]\n", lines)
    return _replaced(text, r'include = \["wsdan\*"\]', f"include = [{packages}]")


def _replaced(text: str, pattern: str, replacement: str) -> str:
    text, times = re.subn(pattern, lambda _: replacement, text, flags=re.MULTILINE)
    if times != 1:
        raise ValueError(f"pyproject.toml has {pattern!r} {times} times, where one is meant")
    return text
