"""What an isolated build asks for: torch only where the environment has none to build with."""

import sysconfig

import pytest

from native_build import objects

pytest.importorskip("setuptools", "77", reason="builds need setuptools>=77")

from native_build import backend

HOOKS = [backend.get_requires_for_build_wheel, backend.get_requires_for_build_editable]


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A function that puts a torch of a version into the environment; Python itself finds none."""
    monkeypatch.setattr(objects.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.delenv("WSDAN_NATIVE", raising=False)
    for kind in ("wheel", "editable"):
        monkeypatch.setattr(
            backend.build_meta, f"get_requires_for_build_{kind}", lambda settings: ["of setup.py"]
        )

    def put(text: str) -> None:
        (tmp_path / "torch").mkdir(exist_ok=True)
        (tmp_path / "torch" / "version.py").write_text(text, encoding="utf-8")

    return put


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("version", ["2.11.0+cu130", "2.14.1", "3.0.0a0+git1"])
def test_an_installed_torch_is_enough(hook, version, environment, tmp_path):
    environment(f"__all__ = ['__version__']\n__version__ = '{version}'\n")
    assert hook() == ["of setup.py"]
    assert objects.torch_folder("include") == tmp_path / "torch" / "include"


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("text", [None, "", "__version__ = '2.9.1+cpu'\n", "__version__ = 'x'\n"])
def test_an_older_torch_or_none_is_not(hook, text, environment, monkeypatch):
    if text is not None:
        environment(text)
    assert hook() == ["of setup.py", "torch>=2.11"]
    with pytest.raises(objects.CannotBuildError, match=r"no torch of 2\.11 or newer"):
        objects.torch_folder()
    monkeypatch.setenv("WSDAN_NATIVE", "0")
    assert hook() == ["of setup.py"]


def test_the_torch_that_python_finds_comes_first(environment, monkeypatch):
    monkeypatch.undo()
    import torch

    assert objects.installed_torch().samefile(torch.__path__[0])
