"""The layers import downwards only: wsdan -> modules -> functional -> ops -> kernels."""

import ast
import re
from pathlib import Path

import pytest
from paths import ROOT

# What each part of wsdan_kernels may import of wsdan_kernels, by the first two names.
ALLOWED = {
    "__init__": {"_version", "backends", "functional", "modules", "views"},
    "_checks": set(),
    "_dtypes": set(),
    "_triton": {"_triton"},
    "_native": set(),
    "_version": set(),
    "backends": {"_native", "ops"},
    "compat": {"_dtypes", "functional", "views"},
    "functional": {"_checks", "_dtypes", "backends", "functional", "ops"},
    "modules": {"functional"},
    "ops": {"_dtypes", "_native", "ops", "reference"},  # _triton too, by name, at the first call
    "reference": {"_dtypes", "reference"},
    "testing": {"functional", "views"},
    "views": {"_checks", "backends", "functional", "ops"},
}
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
        "collections", "contextlib", "dataclasses", "functools", "importlib", "math", "os",
        "pathlib", "pkgutil", "random", "sys", "typing",
    }  # fmt: skip
    for name in imported(path):
        top = name.split(".")[0]
        assert top in third_party | standard | {"wsdan_kernels"}, f"{path} imports {name}"
    if part(path) == "reference":
        outside = {name.split(".")[0] for name in imported(path)} - {"wsdan_kernels"}
        assert outside <= {"torch"}


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
