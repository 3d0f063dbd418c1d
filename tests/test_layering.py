"""Imports run downwards only, in the program and in the kernels.

cli -> commands -> training -> inference -> networks -> data -> ... -> errors (ROOMS below), and
wsdan -> modules -> functional -> ops -> kernels (ALLOWED).
"""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from paths import ROOT

# What each part of wsdan_kernels may import of wsdan_kernels, by the first two names.
ALLOWED = {
    "__init__": {"_version", "backends", "exported", "functional", "modules", "views"},
    "_checks": set(),
    "_dtypes": set(),
    "_triton": {"_triton"},
    "_native": set(),
    "_version": set(),
    "backends": {"_native", "ops"},
    "compat": {"_dtypes", "compat", "functional", "views"},
    "exported": {"ops"},
    "functional": {"_checks", "_dtypes", "backends", "functional", "ops"},
    "modules": {"functional"},
    "ops": {
        "_checks",
        "_dtypes",
        "_native",
        "ops",
        "reference",
    },  # _triton too, by name, at the first call
    "reference": {"_dtypes", "reference"},
    "testing": {"functional", "views"},
    "views": {"_checks", "backends", "functional", "ops"},
}
# The rooms of wsdan, lowest first: a file imports from its own room and from those below.
ROOMS = (
    {"constants", "errors", "files", "output", "recipes"},
    {"remote"},
    {"configs", "validation"},
    {"config", "yaml_files"},
    {"parser"},
    {"checkpoint_content"},
    {"checkpoint", "distributed", "precision", "profiling"},
    {"data"},
    {"networks"},
    {"inference"},
    {"exporting", "reporting", "serving"},
    {"training"},
    {"commands"},
    {"cli"},
    {"__init__", "__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
# What a reader of a data set may import of wsdan: no configuration, no sampler, no other reader.
READER = {
    "wsdan.data.formats", "wsdan.data.readers._layout", "wsdan.data.readers._mistakes",
    "wsdan.data.readers._numbered", "wsdan.data.readers._remote", "wsdan.data.readers._tar",
    "wsdan.data.samples",
    "wsdan.errors", "wsdan.remote.addresses", "wsdan.remote.errors", "wsdan.remote.files",
    "wsdan.remote.store", "wsdan.validation",
}  # fmt: skip
KERNELS = sorted((ROOT / "wsdan_kernels").rglob("*.py"))
PROGRAM = sorted((ROOT / "wsdan").rglob("*.py"))


def imported(path: Path) -> list[str]:
    """Dotted names a file imports, functions included."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def part(path: Path) -> str:
    return path.relative_to(ROOT / "wsdan_kernels").parts[0].removesuffix(".py")


def test_the_table_covers_the_tree():
    assert {part(path) for path in KERNELS} == set(ALLOWED)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: str(path.relative_to(ROOT)))
def test_kernels_import_downwards(path):
    for name in imported(path):
        top, *rest = name.split(".")
        assert top != "wsdan", f"{path}: the kernels know nothing of the program"
        if top == "wsdan_kernels":
            assert rest[0] in ALLOWED[part(path)], f"{path} imports {name}"


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: str(path.relative_to(ROOT)))
def test_kernels_need_torch_triton_and_numpy_only(path):
    third_party = {"torch", "numpy", "triton"}
    standard = {
        "collections", "contextlib", "dataclasses", "functools", "importlib", "json", "math",
        "os", "pathlib", "pkgutil", "random", "sys", "typing", "zipfile",
    }  # fmt: skip
    for name in imported(path):
        top = name.split(".")[0]
        assert top in third_party | standard | {"wsdan_kernels"}, f"{path} imports {name}"
    if part(path) == "reference":
        outside = {name.split(".")[0] for name in imported(path)} - {"wsdan_kernels"}
        assert outside <= {"torch"}


def module(path: Path, root: Path = ROOT) -> str:
    """wsdan/data/images.py -> "wsdan.data.images"."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def room(name: str) -> str:
    """The room of a dotted name in wsdan; of its public names, the package itself."""
    first = name.split(".")[1]
    return first if first in LEVEL else "__init__"


def upward_imports(paths: list[Path], root: Path = ROOT) -> list[str]:
    """Lines `A imports B` for each import of wsdan from a room that is not below A's own."""
    found = []
    for path in paths:
        own = room(module(path, root))
        for name in imported(path):
            if not name.startswith("wsdan."):
                continue
            other = room(name)
            if other != own and LEVEL[other] >= LEVEL[own]:
                found.append(f"{module(path, root)} imports {name}")
    return found


def test_every_file_of_the_program_is_in_a_room():
    assert {module(path).split(".")[1] for path in PROGRAM} == set(LEVEL)


def test_the_program_imports_downwards():
    assert upward_imports(PROGRAM) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("data/planted.py", "from wsdan.networks.model import WSDAN"),
        ("networks/planted.py", "import wsdan.inference.evaluate"),
        ("inference/planted.py", "def f():\n    from wsdan.training import loop"),
        ("config.py", "from wsdan.data.readers import folder"),
        ("errors.py", "from wsdan.constants import CROP_PADDING"),
        ("checkpoint.py", "from wsdan.distributed import rank"),
        ("training/planted.py", "from wsdan.cli import main"),
        ("training/planted.py", "from wsdan import WSDAN"),
    ],
)
def test_a_planted_upward_import_is_found(tmp_path, path, line):
    planted = tmp_path / "wsdan" / path
    planted.parent.mkdir(parents=True)
    planted.write_text(line)
    assert len(upward_imports([planted], tmp_path)) == 1


def test_the_program_has_no_circle_of_imports():
    graph = {module(path): set() for path in PROGRAM}
    for path in PROGRAM:
        for name in imported(path):
            parent = name.rpartition(".")[0]
            graph[module(path)] |= {found for found in (name, parent) if found in graph}
    graph.pop("wsdan.__init__")  # its public names are imported at their first use
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize(
    "path", sorted((ROOT / "wsdan/data/readers").glob("*.py")), ids=lambda path: path.name
)
def test_readers_stand_alone(path):
    for name in imported(path):
        if name.startswith("wsdan."):
            assert name.rpartition(".")[0] in READER, f"{path} imports {name}"


@pytest.mark.parametrize("path", PROGRAM, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_program_uses_public_names_only(path):
    import wsdan_kernels

    for name in imported(path):
        top, *rest = name.split(".")
        if top == "wsdan_kernels" and rest:
            assert rest[0] in wsdan_kernels.__all__, f"{path} imports {name}"


def test_device_code_stands_without_torch():
    """The maths of csrc/common, and the kernels, which a plain C++ compiler takes as well."""
    paths = [*(ROOT / "csrc" / "common").rglob("*.h"), *(ROOT / "csrc" / "cuda").rglob("*.cuh")]
    assert len(paths) > 8
    for path in paths:
        included = [
            line.split()[1]
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("#include")
        ]
        for name in included:
            assert name.endswith(('.h"', '.cuh"')) or re.fullmatch(r"<c?\w+>", name), (path, name)
            assert "torch" not in name, (path, name)


def test_nvcc_reads_no_tensors_of_torch():
    """What it compiles for each architecture; operators.cpp, for the host alone, has them."""
    folder = ROOT / "csrc" / "cuda"
    paths = [*folder.glob("*.cu"), *(folder / "launch").glob("*.h")]
    assert len(paths) > 8
    for path in paths:
        text = path.read_text(encoding="utf-8")
        of_torch = set(re.findall(r'#include ["<](.*torch/.*)[">]', text))
        assert of_torch <= {"torch/headeronly/util/Exception.h"}, (path, of_torch)
