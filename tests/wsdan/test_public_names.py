"""The public names are those that type checkers see; `make lint` checks a script that uses them."""

import ast

import pytest
from runs import SCRIPTS

import wsdan
import wsdan_kernels


@pytest.mark.parametrize("package", [wsdan, wsdan_kernels], ids=lambda item: item.__name__)
def test_the_checked_script_uses_every_public_name(package):
    tree = ast.parse((SCRIPTS / "public_names.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {a.name for node in imports if node.module == package.__name__ for a in node.names}
    assert names == set(package.__all__)
    assert all(callable(getattr(package, name)) for name in names)


def test_the_operators_public_names_are_what_is_imported():
    found = {name for name, value in vars(wsdan_kernels).items() if callable(value)}
    assert wsdan_kernels.__all__ == sorted(name for name in found if not name.startswith("_"))


def test_both_packages_are_typed(root):
    for name in ("wsdan", "wsdan_kernels"):
        assert (root / name / "py.typed").exists()
