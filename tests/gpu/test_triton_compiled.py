"""What the Triton kernels become on each GPU, compiled here in every shipped configuration."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow
CAPABILITIES = (80, 90, 100)
# Bytes of shared memory that one program may take. CUDA C++ Programming Guide, table of technical
# specifications: sm_80 itself has 163 KiB, but sm_86 and sm_89 take the same entries and have 99.
SHARED_LIMIT = {80: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}
PRODUCTS = {"pool_kernel", "gradients_kernel", "feature_gradient_kernel", "attend_kernel"}
# Launches whose features lie so that a thread can take 16 bytes: not the NCHW rows of 16 bits
# (1,352 bytes), and not the odd numbers of maps and channels.
WIDE = {"pool_kernel", "gradients_kernel", "attend_kernel"}


@pytest.fixture(scope="module")
def report(tmp_path_factory, root):
    """What tests/gpu/triton_report.py finds, from a process without the interpreter.

    WSDAN_TRITON_REPORT names its --json where it has been run already, as in CI.
    """
    file = os.environ.get("WSDAN_TRITON_REPORT")
    if file is None:
        file = tmp_path_factory.mktemp("report") / "report.json"
        environment = {**os.environ, "PYTHONPATH": str(root)}
        environment.pop("TRITON_INTERPRET", None)
        command = [sys.executable, "tests/gpu/triton_report.py", "--json", str(file)]
        result = subprocess.run(
            command, env=environment, cwd=root, capture_output=True, text=True, timeout=900
        )
        assert result.returncode == 0, result.stderr
    return json.loads(Path(file).read_text(encoding="utf-8"))


@pytest.fixture(params=CAPABILITIES)
def compiled(request, report):
    """The rows of one GPU."""
    rows = [row for row in report if row["capability"] == request.param]
    assert rows
    return rows


def named(rows, text, kernels):
    found = [row for row in rows if text in row["name"] and row["kernel"] in kernels]
    assert found, f"no launch {text!r} of {kernels}"
    return found


def test_nothing_spills(compiled):
    assert len(compiled) > 60
    assert {row["kernel"]: row for row in compiled if row["spills"]} == {}
    assert all(row["registers"] <= 255 for row in compiled)


def test_shared_memory_fits_the_chip(compiled):
    assert all(row["shared"] <= SHARED_LIMIT[row["capability"]] for row in compiled)


def test_products_run_on_the_tensor_cores(compiled):
    rows = named(compiled, "", PRODUCTS)
    assert {row["kernel"] for row in rows} == PRODUCTS
    assert all(row["tensor_core"] for row in rows)


def test_features_are_read_and_written_16_bytes_at_a_time(compiled):
    for text in ("bfloat16 channels_last", "float16 channels_last", "float32"):
        for row in named(compiled, text, WIDE):
            if not any(odd in row["name"] for odd in ("C 100", "13x13")):
                assert row["loads_128"], row
        for row in named(compiled, text, {"gradients_kernel"}):
            if not any(odd in row["name"] for odd in ("C 100", "13x13", "M 128")):
                assert row["stores_128"], row


def test_features_reach_shared_memory_without_a_stop_in_registers(compiled):
    """The pipelined products copy asynchronously: else each tile in flight takes registers."""
    for text in ("bfloat16 channels_last", "bfloat16 NCHW", "float32"):
        for row in named(compiled, text, {"pool_kernel", "gradients_kernel"}):
            assert row["async_copies"], row


def test_every_shipped_tile_is_compiled(compiled):
    from wsdan_kernels._triton import _tuning as tuning

    capability = compiled[0]["capability"]
    used = {tuple(row["tile"]) for row in compiled if row["tile"]}
    for (kernel, size), by_capability in tuning.TILES.items():
        newest = max(known for known in by_capability if known <= capability)
        for tile in by_capability[newest]:
            assert (tile.channels, tile.positions) in used, (kernel, size, tile)


@pytest.mark.parametrize(
    ("kernel", "of_3_6", "later"),
    [("pool_kernel", 1500, 1850), ("gradients_kernel", 2550, 3050)],
)
def test_float32_pooling_issues_few_instructions(report, kernel, of_3_6, later):
    """Of all warps in a step of 2,048 features, on sm_90: what bounds these kernels.

    Triton 3.8 rounds the operands of a tf32 product itself, 3.6 does not.
    """
    most = of_3_6 if importlib.metadata.version("triton").startswith("3.6.") else later
    rows = [row for row in report if row["capability"] == 90]
    for row in named(rows, "pool float32", {kernel}):
        if row["name"].endswith(("B 12", "B 128")):
            assert 0 < row["step"] * row["warps"] <= most, row
