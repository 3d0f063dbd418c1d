"""What the CUDA kernels become on each GPU: spills, registers, shared memory, wide accesses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cuda_report
import pytest

import native_build.cuda as cuda_build

pytestmark = pytest.mark.slow
# Bytes of shared memory that one block may take (CUDA C++ Programming Guide, technical
# specifications per compute capability).
SHARED_LIMIT = {
    80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024,
}  # fmt: skip
# The last template argument of these is how many neighbouring elements a thread takes at once: 16
# bytes of them, but 8 of uint8, each of which costs as many registers as other elements do.
CHUNKED = {
    "attention_drop_kernel",
    "attention_crop_drop_kernel",
    "attention_swap_kernel",
    "crop_resize_kernel",
}
BYTES = {"u8": 1, "u16": 2, "u32": 4, "bfloat16": 2, "float16": 2, "float": 4}


@pytest.fixture(scope="module")
def report(tmp_path_factory, root):
    """What tests/gpu/cuda_report.py finds.

    WSDAN_CUDA_REPORT names its --json where it has been run already, as in CI.
    """
    file = os.environ.get("WSDAN_CUDA_REPORT")
    if file is None:
        try:
            cuda_build.usable_nvcc(os.environ)
            cuda_report.tool("--version")
        except (cuda_build.CannotBuildError, cuda_report.NoToolError) as reason:
            pytest.skip(f"the CUDA kernels are not compiled here: {reason}")
        file = tmp_path_factory.mktemp("report") / "report.json"
        command = [sys.executable, "tests/gpu/cuda_report.py", "--json", str(file)]
        result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, result.stderr
    return json.loads(Path(file).read_text(encoding="utf-8"))


@pytest.fixture(params=cuda_build.ARCHS)
def compiled(request, report):
    """The rows of one GPU."""
    rows = [row for row in report if row["capability"] == request.param]
    if not rows:
        built = {row["capability"] for row in report}
        assert built  # of at least one GPU
        pytest.skip(f"the report is of sm_{', sm_'.join(map(str, sorted(built)))} only")
    return rows


def test_every_kernel_is_compiled(compiled, root):
    named = set()
    for path in (root / "csrc" / "cuda").rglob("*.cu*"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"__global__ void (?:__launch_bounds__\(.*\) )?(\w+)\(", text)
        assert len(found) == text.count("__global__"), path
        named |= set(found)
    assert named == {row["kernel"] for row in compiled}


def test_nothing_spills(compiled):
    spilling = [row for row in compiled if row["spills"] or row["stack"] or row["local"]]
    assert {row["name"]: (row["spills"], row["stack"], row["local"]) for row in spilling} == {}


def test_blocks_fit_a_multiprocessor(compiled):
    for row in compiled:
        warps = row["threads"] // 32
        assert -(-row["registers"] // 8) * 8 * 32 * warps <= cuda_report.REGISTERS, row
        assert row["shared"] <= SHARED_LIMIT[row["capability"]], row
        assert row["occupancy"] > 0, row


def test_the_report_knows_which_kernels_use_shared_memory(compiled):
    for row in compiled:
        assert bool(row["shared"]) == bool(row["shared_accesses"]), row


def test_chunks_are_read_and_written_at_once(compiled):
    chunked = [row for row in compiled if row["kernel"] in CHUNKED and row["arguments"][-1] != "1"]
    assert {row["kernel"] for row in chunked} == CHUNKED
    for row in chunked:
        size = BYTES[row["arguments"][0]]
        chunk = 8 if size == 1 else 16
        assert int(row["arguments"][-1]) * size == chunk, row
        assert set(row["stores"]) == {str(chunk)}, row
        if row["kernel"] != "crop_resize_kernel":  # which gathers
            assert row["loads"].get(str(chunk)), row


def test_every_element_type_has_a_chunked_kernel(compiled):
    for kernel in CHUNKED:
        rows = [row for row in compiled if row["kernel"] == kernel and row["arguments"][-1] != "1"]
        assert {BYTES[row["arguments"][0]] for row in rows} == {1, 2, 4}
