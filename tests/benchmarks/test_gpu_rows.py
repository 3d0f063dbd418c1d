"""The rows of make gpu-check and their targets, less what needs a GPU."""

import json
from dataclasses import replace

import inference_bench
import parity
import pytest
import torch
import train_bench
from emulator import build, install
from harness import gpu, gpu_measure, gpu_rows, report, run
from measured import TINY, found_of, rows_of
from tape import mock_cuda_graphs

VIEWS = ("views", "boxes", "crop", "drop", "refine", "swap")
STEPS = {"auto", "graph"} if parity.GPU == "cuda" else {"auto"}
EMULATED = parity.GPU == "cpu" and build.missing() is None
CPP = {"cuda"} if EMULATED or parity.GPU == "cuda" else {"cpu"}  # views without any compiler
OURS_OF = {**dict.fromkeys(VIEWS, CPP), "step": STEPS, "inference": {"auto"}}
OF_IMAGES = ("step", "inference")


@pytest.fixture
def tiny(monkeypatch):
    """Small works with Triton's kernels in them, on the GPU or in the interpreter."""
    monkeypatch.setattr(run, "INTERPRETED", True)
    monkeypatch.setattr(gpu_rows, "paper_shape", lambda batch: TINY)
    monkeypatch.setattr(train_bench, "BACKBONE", "tiny")
    monkeypatch.setattr(inference_bench, "BACKBONE", "tiny")
    if parity.GPU == "cpu":
        mock_cuda_graphs(monkeypatch)
        monkeypatch.setattr(gpu, "input_sets", lambda size, device: 3)


@pytest.fixture
def emulator():
    """The CUDA kernels of the views, on the CPU."""
    with install.installed():
        yield


@pytest.mark.parametrize("name", gpu_rows.ROWS)
@pytest.mark.slow
def test_every_group_is_measured_and_ours_is_right(name, tiny, request):
    if EMULATED and name.split()[0] in VIEWS:
        request.getfixturevalue("emulator")
    entry = gpu_rows.ROWS[name]
    group = f"{name} B {entry.batches[0]}"
    assert group in gpu_rows.groups()
    emitted = []
    gpu_measure.measure_group(group, 1e9, emitted.append, device=parity.GPU, repeats=2)
    assert emitted
    for content in emitted:
        assert json.loads(json.dumps(content)) == content
        rows = [report.Row(**row) for row in content["rows"]]
        names = {row.variant for row in rows}
        assert "published" in names and names & OURS_OF.get(name.split()[0], {"triton"})
        assert all(row.median_ms > 0 and row.share > 0 for row in rows)
        found = {check["code"]: check for check in content["checks"]}
        if name.split()[0] in OF_IMAGES:
            assert {row.unit for row in rows} == {"images/s"}
            views = {run.RAW} if name.startswith("inference") else set()
            assert found.keys() == entry.targets(TINY["B"]).keys() | views
            continue
        assert "reference" in names and found["bits"]["passed"] is True
        assert ("compiled" in found) == (run.COMPILED in entry.targets(TINY["B"]))
        assert not any(note.startswith("roi_align left out") for note in content["notes"])


def test_a_group_whose_kernel_is_wrong_is_not_timed(tiny, monkeypatch):
    work = run.Work(
        "work", "B 1", {"published": lambda: torch.ones(2), "triton": lambda: torch.zeros(2)},
        tolerance=1e-5, moved=8.0, device=parity.GPU,
    )  # fmt: skip
    entry = gpu_rows.Entry(lambda sizes, device: [replace(work, variants={
        "compiled": torch.ones, **work.variants,
    })])  # fmt: skip
    monkeypatch.setitem(gpu_rows.ROWS, "centers", entry)
    monkeypatch.setattr(run, "machine", lambda device: {"copy_gb_per_s": 1.0})
    emitted = []
    assert gpu_measure.measure(["centers B 12", "sample B 12"], lambda: 100.0, emitted.append) == 1
    assert [list(content) for content in emitted] == [["machine"], ["failed", "error"]]
    assert "triton differs from published" in emitted[1]["error"]


def test_a_graph_that_fails_leaves_the_other_rows(tiny, monkeypatch):
    def failing():
        raise RuntimeError("operation not permitted when stream is capturing")

    one, variants = torch.ones(2), {"graph": failing}
    work = run.Work(
        "step", "B 1", {"published": lambda: one, "auto": lambda: one, **variants},
        tolerance=1e-5, moved=8.0, images=2, device=parity.GPU,
    )  # fmt: skip
    monkeypatch.setitem(gpu_rows.ROWS, "centers", gpu_rows.Entry(lambda *_: [work]))
    emitted = []
    with pytest.raises(RuntimeError, match="capturing"):
        gpu_measure.measure_group("centers B 12", 1e9, emitted.append, parity.GPU, repeats=2)
    assert [row["variant"] for row in emitted[0]["rows"]] == ["published", "auto"]


def test_the_same_bits():
    state = torch.zeros(3)
    work = run.Work("work", "B 1", {"triton": lambda: (state.add_(1),)}, 0.0, 1.0)
    assert gpu_rows.same_bits(work) is False
    work = replace(work, variants={"cuda": lambda: state + 1})
    assert gpu_rows.same_bits(work) is True
    assert gpu_rows.same_bits(replace(work, variants={"published": list})) is None
    assert gpu_rows.same_bits(replace(work, images=2)) is None


def passed(*arguments, **options):
    return {check.code: check.passed for check in found_of(*arguments, **options)}


def test_targets():
    good = rows_of(published=0.16, compiled=0.12)
    assert passed(good) == {"bits": True, "copy": True, "compiled": True, "published": True}
    slow = [replace(row, share=0.74) for row in rows_of(published=0.15, compiled=0.11)]
    assert passed(slow) == {"bits": True, "copy": False, "compiled": False, "published": False}
    assert passed(rows_of(published=0.32))["compiled"] is None
    assert passed(good, budget={}, bits=None) == {"bits": None}
    assert passed(good, images=12) == {"compiled": True, "published": True}
    for count, directions, met in ((3, 1, True), (4, 1, False), (6, 2, True), (None, 1, None)):
        rows = [replace(row, launches=count) for row in good]
        assert passed(rows, gpu_rows.SMALL, {}, directions=directions)["launches"] is met
    assert passed(good[:1]) == {"ours": False}


def test_targets_of_inference():
    rows = [replace(row, limit=run.RAW, share=0.47) for row in rows_of(published=0.32)]
    met = {"published": True, run.RAW: True}
    assert passed(rows, budget=gpu_rows.INFERENCE, images=128) == met
    slow = [replace(row, share=0.469) for row in rows]
    assert passed(slow, budget=gpu_rows.INFERENCE, images=128) == {**met, run.RAW: False}
    entry = gpu_rows.ROWS["inference bf16"]
    held = {batch: entry.targets(batch) for batch in entry.batches}
    assert held == {1: {}, 16: {}, 128: gpu_rows.INFERENCE}
    graph = replace(rows[-1], work="inference", shape="B 16 M 32 resnet50 448 px float32 graph")
    assert gpu_rows.line([graph], []).startswith("inference, B 16 fp32 graph ")


def test_targets_of_pooling_are_lower_where_the_product_is_nearly_all():
    entry = gpu_rows.ROWS["mean fp32"]
    assert entry.targets(gpu_rows.SMALL) == gpu_rows.POOLING
    assert entry.targets(gpu_rows.LARGE) == gpu_rows.POOLING_LARGE
    assert all(gpu_rows.POOLING_LARGE[name] < least for name, least in gpu_rows.POOLING.items())


def test_targets_of_the_views():
    rows = rows_of(published=4.0, reference=0.32, compiled=0.12)
    met = {"bits": True, "copy": True, "compiled": True, "published": True, "reference": True}
    assert passed(rows, budget=gpu_rows.VIEWS) == met
    slow = rows_of(published=3.99, reference=0.319, compiled=0.119)
    met |= {"compiled": False, "published": False, "reference": False}
    assert passed(slow, budget=gpu_rows.VIEWS) == met
    pair = gpu_rows.ROWS["views fp32"]
    assert pair.targets(gpu_rows.LARGE) == gpu_rows.VIEWS and pair.targets(gpu_rows.SMALL) == {}


def test_a_work_in_one_line():
    rows = rows_of(published=0.32, compiled=0.12)
    found = found_of(rows)
    line = gpu_rows.line(rows, found)
    assert line.startswith("mean fwd, B 128 fp32 channels_last")
    for text in (" 80.00 us", " 80%", " 12.5", "4.00x", "1.50x", "bits+ copy+ compiled+"):
        assert text in line
    assert len(line) <= 140 and "no kernel of ours" in gpu_rows.line(rows[:1], [])
    step = [replace(row, rate=131.4, unit="images/s") for row in rows]
    assert gpu_rows.line(step, []).endswith("  131 images/s")
