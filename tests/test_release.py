"""The distributions of a release: what each needs and holds, and what `make release` finds."""

import subprocess
import tarfile
import zipfile

import pytest
from paths import ROOT

import wsdan_kernels
from release import check, distributions, trial, wheels

KERNELS_NEED = {"torch", "triton", "numpy"}
DATED = "## Unreleased\n\n## 1.2.0 (2026-01-02)\n\n- New.\n\n## 1.1.0 (2025-01-02)\n\n- Old.\n"


def needed(text: str) -> set[str]:
    """The names of what a pyproject.toml requires."""
    listed = text.split("\ndependencies = [\n")[1].split("\n]")[0]
    return {line.strip(' ",').split(">")[0].split("=")[0] for line in listed.splitlines()}


def test_the_version_stands_in_one_place():
    assert distributions.version() == wsdan_kernels.__version__


def test_the_operators_need_three_packages_and_the_program_needs_the_operators():
    assert needed(distributions.project("wsdan-kernels")) == KERNELS_NEED
    whole = needed((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert needed(distributions.project("wsdan")) == whole | {"wsdan-kernels"}
    pinned = f'"wsdan-kernels=={distributions.version()}"'
    assert pinned in distributions.project("wsdan")


def test_a_pyproject_of_another_form_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text("dependencies = [\n]\n", encoding="utf-8")
    monkeypatch.setattr(distributions, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="0 times, where one is meant"):
        distributions.project("wsdan-kernels")


def test_libraries_of_the_checkout_stay_out(tmp_path):
    distributions.lay_out("wsdan-kernels", tmp_path / "stage")
    package = tmp_path / "stage" / "wsdan_kernels"
    assert (package / "ops").is_dir() and not list(package.rglob("*.so"))
    assert not (tmp_path / "stage" / "wsdan").exists()


@pytest.mark.slow
def test_the_wheel_of_the_operators_holds_what_was_compiled(tmp_path, monkeypatch):
    """From the objects of the installation."""
    for package in ("setuptools", "auditwheel"):
        pytest.importorskip(package, reason="pip install 'wsdan[release]'")
    if not list((ROOT / "build" / "cpu").rglob("*.o")):
        pytest.skip("nothing was compiled here")
    monkeypatch.setattr(wheels, "STAGES", tmp_path / "stages")
    made = wheels.build("cpu", tmp_path)
    assert made.name.startswith(f"wsdan_kernels-{distributions.version()}+cpu-cp310-abi3-manylinux")
    with zipfile.ZipFile(made) as wheel:
        names = wheel.namelist()
    assert [name for name in names if ".so" in name] == ["wsdan_kernels/_cpu.abi3.so"]
    assert not [name for name in names if name.startswith("wsdan/")]


@pytest.mark.slow
def test_the_archive_builds_from_itself(tmp_path):
    pytest.importorskip("setuptools", "77")
    archive = wheels.build_sdist(tmp_path)
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked")
    (source,) = (tmp_path / "unpacked").iterdir()
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "csrc", "native_build", "wsdan", "wsdan_kernels"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert [name for name in tracked if not (source / name).exists()] == []
    wheels.run_setup(
        source, {"WSDAN_NATIVE": "0", "PYTHONPATH": ""}, "bdist_wheel", f"--dist-dir={tmp_path}"
    )
    (built,) = tmp_path.glob("wsdan-*.whl")
    with zipfile.ZipFile(built) as wheel:
        assert {"wsdan/cli.py", "wsdan_kernels/ops/__init__.py"} <= set(wheel.namelist())


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        (DATED, []),
        (DATED.replace("\n## 1.2", "\n- Later.\n\n## 1.2"), ["entries stand under Unreleased"]),
        (DATED.replace("2026-01-02", "unreleased"), ["no heading `## 1.2.0 (YYYY-MM-DD)`"]),
        (DATED.replace("- New.\n", ""), ["nothing stands under 1.2.0 (2026-01-02)"]),
    ],
)
def test_the_changelog_of_a_release(text, lacks):
    found = check.changelog_lacks(text, "1.2.0")
    assert found == [f"CHANGELOG.md: {lack}" for lack in lacks]


def test_the_citation_of_a_release():
    assert check.citation_lacks("version: 1.2.0\n", "1.2.0") == []
    assert check.citation_lacks("version: 1.1.0\n", "1.2.0") == [
        "CITATION.cff: version is not 1.2.0"
    ]


def test_the_tag_of_a_release(tmp_path):
    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *names, *arguments], check=True)

    git("init", "-q")
    (tmp_path / "a").write_text("1", encoding="utf-8")
    git("add", "a")
    git("commit", "-qm", "a")
    assert check.repository_lacks(tmp_path, "1.2.0") == [
        "git: the tag v1.2.0 is not at this commit"
    ]
    git("tag", "v1.2.0")
    assert check.repository_lacks(tmp_path, "1.2.0") == []
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert check.repository_lacks(tmp_path, "1.2.0") == ["git: files have changed since the commit"]


def test_the_files_of_a_release(tmp_path):
    tag = "cp310-abi3-manylinux_2_34_x86_64.whl"
    held = {
        f"wsdan_kernels-1.2.0-{tag}": ["_cpu.abi3.so", "_cuda.abi3.so"],
        f"wsdan_kernels-1.2.0+cpu-{tag}": ["_cpu.abi3.so"],
        "wsdan-1.2.0-py3-none-any.whl": [],
    }
    for name, libraries in held.items():
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            for library in libraries:
                wheel.writestr(f"wsdan_kernels/{library}", b"")
    assert check.dist_lacks(tmp_path, "1.2.0") == ["dist: no wsdan-1.2.0.tar.gz"]
    (tmp_path / "wsdan-1.2.0.tar.gz").touch()
    assert check.dist_lacks(tmp_path, "1.2.0") == []
    with zipfile.ZipFile(tmp_path / f"wsdan_kernels-1.2.0+cpu-{tag}", "a") as wheel:
        wheel.writestr("wsdan_kernels.libs/libtorch.so.2", b"")
    (found,) = check.dist_lacks(tmp_path, "1.2.0")
    assert "libtorch.so.2" in found


def test_the_tests_of_a_trial_exist():
    assert [name for name in trial.TESTS if not (ROOT / name).is_file()] == []


def test_an_interpreter_of_pyenv_comes_before_its_shim(tmp_path, monkeypatch):
    kept = tmp_path / ".pyenv" / "versions" / "3.12.1" / "bin" / "python3.12"
    shims = tmp_path / "shims"
    for folder, name in ((kept.parent, "3.12"), (shims, "3.12"), (shims, "3.13")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"python{name}").write_text("#!/bin/sh\n", encoding="utf-8")
        (folder / f"python{name}").chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(shims))
    found = [trial.interpreter(version) for version in ("3.12", "3.13", "3.14")]
    assert found == [str(kept), str(shims / "python3.13"), None]
