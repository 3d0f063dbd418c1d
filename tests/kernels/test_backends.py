"""The choice of a backend, and what is said where one cannot run."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

import native_build.cuda as cuda_build
import wsdan_kernels as wk
from wsdan_kernels import _native, backends
from wsdan_kernels.ops import KERNELS


def run_python(code: str, root, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_native_library_is_built_and_loads():
    assert backends.available()["cpu"] is None, "run pip install -e . (with a C++ compiler)"
    assert backends.resolve("attention_boxes", "auto", "cpu", torch.float32) == "cpu"


def test_a_kernel_says_what_it_does_not_take():
    reason = backends.why_not("center_loss", "cpu", "meta", torch.float32)
    assert reason == "runs on cpu tensors only, not meta"
    reason = backends.why_not("attention_boxes", "cpu", "cuda", torch.float32)
    assert reason == "runs on cpu tensors only, not cuda"


def test_every_op_has_a_reference_kernel_that_takes_everything():
    for op in KERNELS:
        for device in ("cpu", "cuda", "meta"):
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
                assert backends.why_not(op, "reference", device, dtype) is None


@pytest.mark.parametrize("backend", ["auto", "reference", "triton"])
def test_an_operator_that_is_not_in_the_table_is_named(backend):
    rule = "'attention_zoom' must be an operator of wsdan_kernels/ops, one of .*crop_resize"
    with pytest.raises(ValueError, match=rule):
        backends.resolve("attention_zoom", backend, "cpu", torch.float32)
    with pytest.raises(ValueError, match=rule):
        backends.why_not("attention_zoom", "cpu", "cpu", torch.float32)


def test_explain_names_every_backend_and_op():
    text = wk.explain()
    for name in backends.NAMES:
        assert re.search(rf"^  {name}: can", text, re.MULTILINE)
    for op in KERNELS:
        assert re.search(rf"^  {op}: (reference|cpu)", text, re.MULTILINE)
    assert re.search(
        r"  attention_boxes: reference .*\(runs on cpu tensors only, not cuda\)", wk.explain("cuda")
    )


@pytest.fixture
def other_machine(monkeypatch):
    """A monkeypatch whose changes the answers do follow."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    def change(*arguments):
        monkeypatch.setattr(*arguments)
        forget()

    def forget():
        backends._triton_failure.cache_clear()
        backends._cuda_failure.cache_clear()

    yield change
    forget()


class FakeCuda:
    """Stands for torch.cuda with one GPU of this compute capability, or with none."""

    def __init__(self, *capability):
        self.capability = capability

    def is_available(self):
        return bool(self.capability)

    def device_count(self):
        return 1

    def get_device_capability(self, device):
        return self.capability

    def get_device_name(self, device):
        return "a GPU"


def test_triton_says_why_it_cannot_run(other_machine):
    other_machine(torch, "cuda", FakeCuda())
    assert backends.available()["triton"] == "no NVIDIA GPU that torch can use"
    with pytest.raises(wk.BackendUnavailableError, match="'triton' cannot run: no NVIDIA GPU"):
        wk.bilinear_attention_pool(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), backend="triton")
    other_machine(torch, "cuda", FakeCuda(7, 5))
    reason = "a GPU has compute capability 7.5, 8.0 is needed"
    assert backends.available()["triton"] == reason
    assert backends.resolve("center_loss", "auto", "cuda", torch.float32) == "reference"
    other_machine(torch.version, "hip", "6.0")
    assert "built for AMD's" in backends.available()["triton"]
    other_machine(importlib.metadata, "version", lambda name: "3.5.1")
    assert backends.available()["triton"] == "triton 3.5.1 is older than 3.6"
    other_machine(importlib.util, "find_spec", lambda name: None)
    assert backends.available()["triton"] == "triton is not installed; `pip install triton`"


def test_triton_takes_what_a_newer_gpu_offers(other_machine):
    other_machine(torch, "cuda", FakeCuda(9, 0))
    for op in ("bilinear_attention_pool", "attend_and_pool", "center_loss", "sample_attention"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert backends.resolve(op, "auto", "cuda", dtype) == "triton"
        reason = backends.why_not(op, "triton", "cuda", torch.float64)
        assert reason == "takes float32, bfloat16, float16 only, not float64"
        assert backends.resolve(op, "auto", "cuda", torch.float64) == "reference"
        assert backends.why_not(op, "triton", "cpu", torch.float32) is not None
    lines = [line for line in wk.explain("cuda").splitlines() if "  bilinear" in line]
    assert "triton" in lines[0] and "other strides from a copy" in lines[0]


def put_library(other_machine, *archs, failure=None, driver_error=""):
    """A CUDA library, or the reason why there is none."""
    other_machine(_native, "failure", lambda name: failure if name == "cuda" else None)
    other_machine(_native, "cuda_archs", lambda: archs)
    other_machine(_native, "cuda_driver_error", lambda: driver_error)


def test_cuda_says_why_it_cannot_run(other_machine):
    other_machine(torch, "cuda", FakeCuda())
    put_library(other_machine, "sm_90", "compute_90")
    assert backends.available()["cuda"] == "no NVIDIA GPU that torch can use"
    text = "cuda: cannot run: no NVIDIA GPU that torch can use (compiled for sm_90 compute_90)"
    assert text in wk.explain()
    other_machine(torch, "cuda", FakeCuda(7, 5))
    assert backends.available()["cuda"] == "a GPU has compute capability 7.5, 8.0 is needed"
    other_machine(torch, "cuda", FakeCuda(8, 6))
    assert backends.available()["cuda"] == (
        "a GPU has compute capability 8.6, the CUDA library is for sm_90 compute_90; "
        "build it with WSDAN_CUDA_ARCHS unset"
    )
    other_machine(torch, "cuda", FakeCuda(9, 0))
    assert backends.available()["cuda"] is None
    assert "cuda: can run (compiled for sm_90 compute_90)" in wk.explain()
    put_library(other_machine, "sm_90", driver_error="CUDA driver version is insufficient")
    reason = "the CUDA library cannot use this driver: CUDA driver version is insufficient"
    assert backends.available()["cuda"] == reason
    other_machine(torch.version, "hip", "6.0")
    assert "built for AMD's" in backends.available()["cuda"]


def test_a_cuda_tensor_without_the_cuda_library(other_machine):
    other_machine(torch, "cuda", FakeCuda(9, 0))
    put_library(other_machine, failure="the CUDA library was not built")
    for op in ("attention_boxes", "crop_resize", "attention_drop", "attention_crop_drop"):
        assert backends.resolve(op, "auto", "cuda", torch.float32) == "reference"
        with pytest.raises(wk.BackendUnavailableError, match=f"{op}: .*'cuda' cannot run: the CU"):
            backends.resolve(op, "cuda", "cuda", torch.float32)
    with pytest.raises(wk.BackendUnavailableError, match="'cuda' cannot run: the CUDA library was"):
        wk.attention_boxes(torch.ones(1, 4, 4), (8, 8), threshold=0.5, padding=0.1, backend="cuda")
    assert "cuda: cannot run: the CUDA library was not built\n" in wk.explain("cuda")
    put_library(other_machine, "sm_90", "compute_90")
    assert backends.resolve("attention_boxes", "auto", "cuda", torch.float32) == "cuda"
    reason = backends.why_not("center_loss", "cuda", "cuda", torch.float32)
    assert reason == "no cuda kernel for center_loss in this version"


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        ("sm_80 compute_80", (8, 0), True),
        ("sm_80 compute_80", (8, 9), True),
        ("sm_80 compute_80", (12, 1), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_90 compute_90", (8, 9), False),
        ("sm_100", (10, 3), True),
        ("sm_100", (12, 0), False),
        ("sm_120", (10, 0), False),
    ],
)
def test_the_gpus_that_machine_code_and_ptx_run_on(archs, capability, runs):
    assert backends._runs_on(tuple(archs.split()), *capability) is runs


def test_a_torch_without_cuda_asks_for_no_cuda_library(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert _native.failure.__wrapped__("cuda") == "this torch is built without CUDA"


def test_the_cuda_library_loads_without_a_gpu():
    reason = _native.failure("cuda")
    if reason is not None:
        pytest.skip(f"{reason} (CI builds it)")
    *machine_code, ptx = _native.cuda_archs()
    assert all(re.fullmatch(r"sm_\d+", arch) for arch in machine_code)
    assert ptx == machine_code[0].replace("sm", "compute")
    if not torch.cuda.is_available():
        assert _native.cuda_driver_error() != ""


def test_the_interpreter_runs_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backends.available()["triton"] is None
    assert backends.resolve("center_loss", "triton", "cpu", torch.float32) == "triton"
    assert backends.resolve("center_loss", "auto", "cpu", torch.float32) == "cpu"
    assert "in Triton's interpreter, slowly: only where asked for by name" in wk.explain()


def test_a_switched_off_library_falls_back_and_says_so(root):
    code = """
import torch, wsdan_kernels as wk
print(wk.attention_boxes(torch.ones(1, 4, 4), (8, 8), threshold=0.5, padding=0.1).tolist())
print(wk.explain())
try:
    wk.attention_boxes(torch.ones(1, 4, 4), (8, 8), threshold=0.5, padding=0.1, backend="cpu")
except wk.BackendUnavailableError as error:
    print(error)
"""
    result = run_python(code, root, WSDAN_DISABLE_NATIVE="1")
    assert result.returncode == 0, result.stderr
    assert "[[0, 0, 7, 7]]" in result.stdout
    assert "cpu: cannot run: switched off by WSDAN_DISABLE_NATIVE=1" in result.stdout
    assert "attention_boxes: reference" in result.stdout
    assert "attention_boxes: backend 'cpu' cannot run: switched off" in result.stdout


@pytest.mark.parametrize("broken", [True, False])
@pytest.mark.slow
def test_a_missing_or_broken_library_says_what_to_do(broken, tmp_path, root):
    copy = tmp_path / "wsdan_kernels"
    ignored = shutil.ignore_patterns("*.so", cuda_build.NOTE)
    shutil.copytree(root / "wsdan_kernels", copy, ignore=ignored)
    if broken:
        for name in ("_cpu", "_cuda"):
            (copy / f"{name}.abi3.so").write_bytes(b"not a library")
    code = """
import torch, wsdan_kernels as wk
torch.version.cuda = "13.0"
print(wk.explain())
"""
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    expected = "does not load" if broken else "was not built; install a wheel"
    for name in ("C++", "CUDA"):
        assert re.search(rf"cannot run: the {re.escape(name)} library .*{expected}", result.stdout)
    assert "attention_boxes: reference" in result.stdout
    if not broken:  # in a checkout
        (tmp_path / "csrc").mkdir()
        (copy / cuda_build.NOTE).write_text("no nvcc anywhere\n", encoding="utf-8")
        result = run_python(code, tmp_path)
        assert "_cuda was not built (no nvcc anywhere); run `pip" in result.stdout


def test_importing_loads_neither_triton_nor_the_library(root):
    code = """
import sys, torch
before = set(sys.modules)
import wsdan_kernels
assert not any(name.split(".")[0] == "triton" for name in set(sys.modules) - before)
from wsdan_kernels import _native
assert _native.failure.cache_info().currsize == 0
"""
    result = run_python(code, root)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_libraries_use_the_stable_abi_only(name, root):
    """No C++ symbol of torch is needed: only the C shims, which keep their meaning."""
    if name == "cuda" and _native.failure(name) is not None:
        pytest.skip(f"{_native.failure(name)} (CI builds it)")
    assert _native.failure(name) is None
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm to read the library's symbols with; CI has it")
    (library,) = (root / "wsdan_kernels").glob(f"_{name}.*")
    listing = subprocess.run(
        [nm, "-D", "--undefined-only", library], capture_output=True, text=True, check=True
    ).stdout
    symbols = [line.split()[-1] for line in listing.splitlines()]
    assert any(symbol.startswith(("aoti_torch_", "torch_")) for symbol in symbols)
    unstable = [symbol for symbol in symbols if re.match(r"_ZNK?(2at|3c10|5torch)", symbol)]
    assert unstable == []


def test_the_native_op_follows_the_number_of_threads():
    maps = torch.rand(8, 13, 11, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(
                wk.attention_boxes(maps, (99, 77), threshold=0.5, padding=0.1, backend="cpu")
            )
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_native_argument_checks_are_a_runtime_error():
    """What Python checks first is checked again at the boundary."""
    assert _native.failure("cpu") is None
    maps, boxes = torch.ones(2, 4, 4), torch.zeros(2, 4, dtype=torch.int32)
    images, labels = torch.ones(3, 3, 8, 8), torch.tensor([0, 5])
    native, out = torch.ops.wsdan_native, torch.empty(0)
    with pytest.raises(RuntimeError, match="differ in B"):
        native.attention_boxes(maps, torch.ones(3, 1), 8, 8, 0.1, "paper", True, out)
    with pytest.raises(RuntimeError, match="differ in B"):
        native.attention_drop(images, maps, torch.ones(2), "paper", True, torch.empty_like(images))
    with pytest.raises(RuntimeError, match="B that of the images"):
        native.crop_resize(images, boxes, 8, 8, True, torch.empty_like(images))
    with pytest.raises(RuntimeError, match=r"labels must be in \[0, 3\), but got 5"):
        native.center_loss(torch.ones(2, 4), torch.ones(3, 4), labels, out, torch.empty(2, 4))
