"""The benchmark of whole training steps; the published one is ours where nothing is drawn."""

import copy
import json
import re
from dataclasses import asdict

import pytest
import torch
import train_bench
from harness import gpu, published, report, run
from tape import mock_cuda_graphs
from torch import nn
from training import assert_same

import wsdan.training.objective
from wsdan.profiling import MODEL_PARTS, ORDER
from wsdan.training.graphs import WARM_UP
from wsdan_kernels.testing import relative_error

SIZES = {"B": 4, "M": 3, "H": 64, "W": 64}


def step_work(dtype: torch.dtype = torch.float32, **sizes) -> run.Work:
    work = train_bench.step_work({**SIZES, **sizes}, "cpu", dtype, "tiny")
    del work.variants[run.COMPILED]
    return work


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_steps_agree(dtype):
    work = step_work(dtype)
    run.check(work)
    assert list(work.variants) == ["published", "auto", "joint", run.PASSES] and not work.notes


def test_the_compiled_step_agrees(monkeypatch):
    """Without inductor, which would take a minute here."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda it: compile_module(it, backend="aot_eager"))
    work = train_bench.step_work(SIZES, "cpu", torch.float32, "tiny")
    work.variants = {name: work.variants[name] for name in ("published", run.COMPILED)}
    run.check(work)
    assert list(work.variants) == ["published", run.COMPILED] and not work.notes


def test_steps_are_measured_in_images():
    rows = run.measure(step_work(), 2, 1e9, fewest=4)
    assert [row.variant for row in rows] == ["published", "auto", "joint", run.PASSES]
    floor = rows[-1].median_ms
    for row in rows:
        assert (row.unit, row.limit) == ("images/s", run.PASSES)
        assert row.rate == pytest.approx(4 / row.median_ms * 1e3)
        assert row.share == pytest.approx(floor / row.median_ms)
        assert (row.profiler is not None) == (row.variant == "auto")
    profiler = rows[1].profiler
    assert set(profiler) <= set(ORDER) and {*MODEL_PARTS.values(), "views", "backward"} < set(
        profiler
    )
    assert all(ms >= 0 for ms in profiler.values())
    text = report.group_text("a step", rows, [])
    assert "phases of auto: " in text and re.search(r"views \d+\.\d%", text)
    assert json.loads(json.dumps(asdict(rows[1])))["phases"] == profiler


def test_ours_is_the_trainers_step():
    """With its checks: a batch that is no number moves nothing."""
    variant = step_work().variants["auto"]
    variant()
    before = copy.deepcopy(variant.model.state_dict())
    variant.batch[0].fill_(torch.nan)
    assert [float(loss) for loss in variant()] == [0, 0]
    assert_same(variant.model.state_dict(), before)


def test_a_step_with_another_loss_is_refused(monkeypatch):
    losses = published.step_losses

    def wrong(*arguments):
        result = losses(*arguments)
        return {**result, "raw": result["raw"] * 1.001}

    monkeypatch.setattr(published, "step_losses", wrong)
    work = step_work()
    with pytest.raises(AssertionError, match="auto differs from published"):
        run.check(work)


def test_the_published_step_is_ours_where_nothing_is_drawn(monkeypatch):
    """One map, set thresholds, and a size at which the published rules of the boxes agree.

    64 pixels hit every position of a map of 8 positions, and an eighth of them is whole.
    """
    for name in ("CROP_THRESHOLD", "DROP_THRESHOLD"):
        monkeypatch.setattr(wsdan.training.objective, name, (0.5, 0.5))
    for name in ("CROP_RANGE", "DROP_RANGE"):
        monkeypatch.setattr(published, name, (0.5, 0.5))
    monkeypatch.setattr(wsdan.training.objective, "CROP_PADDING", 0.125)
    monkeypatch.setattr(published, "PADDING", 0.125)
    work = step_work(M=1)
    steps = [work.variants[name] for name in ("published", "auto")]
    models = [step.model for step in steps]
    before = [parameter.detach().clone() for parameter in models[0].parameters()]
    for _ in range(2):
        for step in steps:
            step()
    for first, one, other in zip(
        before, models[0].parameters(), models[1].parameters(), strict=True
    ):
        moves = one.detach() - first, other.detach() - first
        assert bool(moves[0].any()) and relative_error(*moves) <= 1e-3  # of the moves, not weights
    assert relative_error(models[0].centers.centers, models[1].centers.centers) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_graph_is_our_step(dtype, monkeypatch):
    """In a CUDA graph's stand-in: warmed up, captured and replayed, it trains as the eager step."""
    graphs = mock_cuda_graphs(monkeypatch)
    monkeypatch.setattr(gpu, "NAME", "cpu")
    work = step_work(dtype)
    assert list(work.variants) == ["published", "auto", "joint", "graph", run.PASSES]
    losses = {}
    for name in ("auto", "graph"):
        losses[name] = [[float(loss) for loss in work.variants[name]()] for _ in range(WARM_UP + 2)]
    assert graphs[0].replays == 2
    for graph, eager in zip(losses["graph"], losses["auto"], strict=True):
        assert graph == pytest.approx(eager, rel=1e-3)
    assert losses["auto"][0] != pytest.approx(losses["auto"][-1], rel=1e-2)
