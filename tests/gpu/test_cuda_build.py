"""What the build of the CUDA operators chooses, and what it leaves behind where it builds none."""

import os
from pathlib import Path

import pytest
import torch

import native_build.cpu as cpu_build
import native_build.cuda as cuda_build
from native_build import objects
from native_build.objects import CannotBuildError, notes_of

EVERY_CODE = " ".join(f"sm_{arch}" for arch in (75, 87, *cuda_build.ARCHS, 121))


@pytest.fixture(autouse=True)
def no_toolkit(monkeypatch, tmp_path):
    """The machine's own toolkit is not found, and torch has CUDA."""
    monkeypatch.setattr(cuda_build, "CONVENTIONAL", str(tmp_path / "conventional"))
    monkeypatch.setattr(cuda_build, "torch_has_cuda", lambda: True)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # no nvidia-smi, no ccache


def put_nvcc(folder: Path, script: str = "exit 1") -> str:
    """An nvcc in folder/bin."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    nvcc.chmod(0o755)
    return str(nvcc)


@pytest.mark.parametrize(
    ("text", "archs"),
    [
        ("", []),
        ("90", [90]),
        ("9.0", [90]),
        ("90;80", [80, 90]),
        ("8.0, 9.0", [80, 90]),
        ("120 80\n100 80", [80, 100, 120]),
        (";12.0,", [120]),
    ],
)
def test_architectures_are_read(text, archs):
    assert cuda_build.parse_archs(text) == archs


@pytest.mark.parametrize("text", ["sm_90", "90;hopper", "9.", "9.0.0", "75", "7.5", "9", "-90"])
def test_other_architectures_are_an_error(text):
    wrong = text.split(";")[-1]
    with pytest.raises(ValueError, match=f"from 80 on, such as 80;90, but got '{wrong}'"):
        cuda_build.parse_archs(text)


def test_an_old_nvcc_leaves_out_what_it_does_not_know(tmp_path, capfd):
    nvcc = put_nvcc(tmp_path, "echo sm_75 sm_80 sm_86 sm_89 sm_90")
    assert cuda_build.usable_archs(nvcc, "all") == [80, 86, 89, 90]
    assert "too old for sm_100, sm_120: left out" in capfd.readouterr().err
    assert cuda_build.usable_archs(nvcc, "9.0") == [90]
    assert capfd.readouterr().err == ""


def test_the_gpus_that_are_here_are_built_for(tmp_path, monkeypatch, capfd):
    nvcc = put_nvcc(tmp_path, f"echo {EVERY_CODE}")
    assert cuda_build.usable_archs(nvcc, "") == [80, 90]
    note = capfd.readouterr().err
    assert "no GPU" in note and "sm_80 and sm_90, with PTX" in note and "ARCHS=all" in note
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '8.9\\n7.5\\n8.9\\n12.0\\n'\n", encoding="utf-8")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=":")
    assert cuda_build.usable_archs(nvcc, "") == [89, 120]
    assert cuda_build.usable_archs(nvcc, "all") == list(cuda_build.ARCHS)
    assert capfd.readouterr().err == ""
    old = put_nvcc(tmp_path / "old", "echo sm_80 sm_86 sm_90")
    smi.write_text("#!/bin/sh\necho 12.0\n", encoding="utf-8")
    assert cuda_build.usable_archs(old, "") == [80, 90]  # whose PTX the driver compiles
    assert "too old for sm_120" in capfd.readouterr().err


def test_torch_is_asked_for_cuda_without_an_import(monkeypatch, tmp_path):
    monkeypatch.undo()
    assert cuda_build.torch_has_cuda() == (torch.version.cuda is not None)
    (tmp_path / "version.py").write_text("cuda: Optional[str] = None\n", encoding="utf-8")
    monkeypatch.setattr(cuda_build, "torch_folder", lambda: tmp_path)
    assert not cuda_build.torch_has_cuda()


def test_an_architecture_asked_for_by_name_is_not_left_out(tmp_path):
    nvcc = put_nvcc(tmp_path, "echo sm_80 sm_90")
    with pytest.raises(CannotBuildError, match="does not know sm_100"):
        cuda_build.usable_archs(nvcc, "90;100")


def test_nvcc_is_looked_for_in_cuda_home_then_in_path_then_where_it_usually_is(tmp_path):
    home, path = tmp_path / "home", tmp_path / "path"
    environment = {"CUDA_HOME": str(home), "PATH": str(path / "bin")}
    with pytest.raises(
        CannotBuildError, match="no nvcc in CUDA_HOME, in PATH or in .*conventional"
    ):
        cuda_build.usable_nvcc(environment)
    for folder in (tmp_path / "conventional", path, home):
        nvcc = put_nvcc(folder)
        assert cuda_build.usable_nvcc(environment) == nvcc
    assert cuda_build.usable_nvcc({"PATH": str(path / "bin")}) == str(path / "bin" / "nvcc")
    assert "conventional" in cuda_build.usable_nvcc({})


def test_nothing_is_built_for_a_torch_without_cuda(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_build, "torch_has_cuda", lambda: False)
    environment = {"PATH": str(Path(put_nvcc(tmp_path)).parent)}
    with pytest.raises(CannotBuildError, match="torch it was to be built for has no CUDA"):
        cuda_build.usable_nvcc(environment)


def test_a_wrong_switch_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="WSDAN_CUDA must be 0 or 1, but got 'yes'"):
        cuda_build.build(tmp_path / "_cuda.abi3.so", {"WSDAN_CUDA": "yes"})


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"WSDAN_CUDA": "0", "PATH": "/"}, "WSDAN_CUDA=0 left it out"),
        ({"PATH": "/"}, "no nvcc in CUDA_HOME"),
        ({"CUDA_HOME": "broken"}, "failed (2): a.cu(1): error: planted"),
    ],
)
def test_what_is_not_built_leaves_a_note_and_no_old_library(
    environment, reason, tmp_path, monkeypatch, capfd
):
    planted = "echo a.cu says; echo 'a.cu(1): error: planted'; echo more"
    knows = f'case "$*" in *list*) echo {EVERY_CODE}; exit;; esac'
    put_nvcc(tmp_path / "broken", f"{knows}\n{planted}\nexit 2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    (tmp_path / "csrc" / "cuda" / "a.cu").write_text("", encoding="utf-8")
    for module in (cuda_build, objects):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    library, note = tmp_path / "_cuda.abi3.so", tmp_path / cuda_build.NOTE
    library.write_bytes(b"of another day")
    cuda_build.build(library, environment)
    assert not library.exists()
    assert reason in note.read_text(encoding="utf-8")
    assert f"NOTE: the CUDA operators are not built: {note.read_text()}" in capfd.readouterr().err
    if environment.get("WSDAN_CUDA") != "0":
        with pytest.raises(CannotBuildError, match="planted|no nvcc"):
            cuda_build.build(library, {**environment, "WSDAN_CUDA": "1"})


# Stands for nvcc: writes what it was called with where it was to put its result.
RECORDER = f"""
case "$*" in *list*) echo {EVERY_CODE}; exit;; esac
echo "ptxas info"
echo "$@" >> calls
while [ $# -gt 1 ]; do
    case "$1" in -MF) depends="$2";; -c) source="$2";; -o) built="$2";; esac
    shift
done
[ -n "$depends" ] && printf '%s: %s \\\n %s\n' "$built" "$source" "$HEADER" > "$depends"
echo built > "$built"
"""


def test_what_is_up_to_date_is_not_compiled_again(tmp_path, monkeypatch):
    nvcc = put_nvcc(tmp_path, RECORDER)
    for module in (cuda_build, objects):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    sources = tmp_path / "csrc" / "cuda"
    sources.mkdir(parents=True)
    header = sources.parent / "common.h"
    for path in (sources / "a.cu", sources / "b.cu", header):
        path.write_text("", encoding="utf-8")
    monkeypatch.setenv("HEADER", str(header))
    library, note = tmp_path / "out" / "_cuda.abi3.so", tmp_path / "out" / cuda_build.NOTE
    note.parent.mkdir()
    note.write_text("of another day", encoding="utf-8")

    def compiled(**environment) -> list[str]:
        """The sources that a build compiles."""
        (tmp_path / "calls").unlink(missing_ok=True)
        cuda_build.build(library, {"PATH": str(Path(nvcc).parent), **environment})
        calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
        (link,) = (call for call in calls if "-shared" in call)
        assert f"-L{tmp_path / 'lib'}" in link.split()  # where PyPI's toolkit has the runtime
        return sorted(name for name in "ab" for call in calls if f"/{name}.cu" in call)

    assert compiled() == ["a", "b"]
    assert library.exists() and not note.exists()
    built = tmp_path / "build" / "cuda" / "80-90" / "a.o"
    assert "ptxas info" in notes_of(built).read_text(encoding="utf-8")
    assert compiled() == []
    assert compiled(WSDAN_CUDA_ARCHS="90") == ["a", "b"]
    assert compiled() == []
    later = built.stat().st_mtime + 10
    touch(sources / "b.cu", later)
    touch(built.with_name("b.o"), later - 1)
    assert compiled() == ["b"]
    touch(header, later + 20)
    assert compiled() == ["a", "b"]
    monkeypatch.setattr(cuda_build, "FLAGS", [*cuda_build.FLAGS, "-DNEW"])
    touch(header, later - 20)
    assert compiled() == ["a", "b"]


# Stands for both compilers: what it compiles first waits for what the other one does.
COMPANION = f"""
case "$*" in *list*) echo {EVERY_CODE}; exit;; esac
touch {{mine}}
tries=0
while [ ! -e {{other}} ]; do
    sleep 0.05
    tries=$((tries + 1))
    [ $tries -lt 200 ] || {{{{ echo "error: {{mine}} is alone"; exit 1; }}}}
done
while [ $# -gt 1 ]; do
    [ "$1" = -o ] && echo built > "$2"
    shift
done
"""


def test_both_libraries_are_compiled_side_by_side(tmp_path, monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    import setup

    nvcc = put_nvcc(tmp_path, COMPANION.format(mine="nvcc", other="c++"))
    compiler = Path(nvcc).with_name("companion")
    compiler.write_text("#!/bin/sh" + COMPANION.format(mine="c++", other="nvcc"), encoding="utf-8")
    compiler.chmod(0o755)
    for module in (cpu_build, cuda_build, objects):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for name in ("cpu/a.cpp", "cuda/a.cu"):
        (tmp_path / "csrc" / name).parent.mkdir(parents=True)
        (tmp_path / "csrc" / name).write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("PATH", str(compiler.parent), prepend=":")
    monkeypatch.setenv("MAX_JOBS", "2")
    objects.compilers.cache_clear()
    command = setup.BuildNative(setuptools.Distribution(setup.native_build()))
    command.ensure_finalized()
    command.build_lib = str(tmp_path / "lib")
    try:
        command.run()
    finally:
        objects.compilers.cache_clear()
    built = sorted((tmp_path / "lib" / "wsdan_kernels").iterdir())
    assert [path.name.split(".")[0] for path in built] == ["_cpu", "_cuda"]


def touch(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


def test_the_lowest_architecture_comes_as_ptx_too():
    assert cuda_build._gencode([86, 120]) == [
        "-gencode=arch=compute_86,code=[sm_86,compute_86]",
        "-gencode=arch=compute_120,code=sm_120",
    ]
