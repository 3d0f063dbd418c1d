"""The benchmark of what a call costs the host: no launch, and everything as before after it."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from harness import calls, run

import wsdan_kernels as wk
from wsdan_kernels.ops import bilinear_attention_pool as op

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)


@pytest.mark.slow
def test_calls_are_timed_without_a_launch(monkeypatch):
    tables = op.KERNELS, op.BACKWARD_KERNELS
    before = [dict(table) for table in tables]
    ran = []
    for table in tables:
        kernel = table["triton"]

        def counted(*arguments, run=kernel.run):
            ran.append(len(arguments))
            return run(*arguments)

        monkeypatch.setitem(table, "triton", replace(kernel, run=counted))
    rows = []
    for work in calls.works():
        run.check(work)
        rows += run.measure(work, 1, 1e9, fewest=1)
    assert [row.variant for row in rows] == ["registered", "triton"] * 2
    assert [row.work.split(", ")[1] for row in rows[::2]] == ["forward", "forward+backward"]
    assert ran.count(8) > ran.count(11) > 0  # forward and backward go through the launchers
    monkeypatch.undo()
    assert [dict(table) for table in tables] == before
    pooled = wk.bilinear_attention_pool(torch.ones(1, 2, 2, 2), torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(pooled, torch.full((1, 3, 2), 6**-0.5))
