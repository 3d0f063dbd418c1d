"""The benchmark of inference with two views; the published loop gives the same views as ours."""

import json

import inference_bench
import pytest
import torch
from harness import gpu, published, report, run
from tape import mock_cuda_graphs
from torch import nn

from wsdan_kernels.testing import relative_error

SIZES = {"B": 4, "M": 3, "H": 64, "W": 64}
VARIANTS = ["published", "auto", run.RAW]


def views_work(dtype: torch.dtype = torch.float32, mode: str = inference_bench.EAGER) -> run.Work:
    return inference_bench.views_work(SIZES, "cpu", dtype, mode, "tiny")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_views_agree(dtype):
    work = views_work(dtype)
    run.check(work)
    assert list(work.variants) == VARIANTS and not work.notes
    raw, refined, mean = work.variants["auto"]()
    assert torch.equal(*work.variants[run.RAW](), raw)
    assert relative_error(refined, raw) > 0.1  # of an object in the image, not the whole of it
    assert torch.equal(mean, (raw + refined) / 2)


def test_another_crop_is_refused(monkeypatch):
    refine = published.refine
    thresholds = [published.REFINE_THRESHOLD * 2] * SIZES["B"]
    monkeypatch.setattr(published, "refine", lambda images, maps: refine(images, maps, thresholds))
    with pytest.raises(AssertionError, match="auto differs from published"):
        run.check(views_work())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_graphs_agree(dtype, monkeypatch):
    """In their stand-in: ours in one graph, the published loop around one of the network."""
    eager = views_work(dtype)
    graphs = mock_cuda_graphs(monkeypatch)
    work = views_work(dtype, inference_bench.GRAPH)
    run.check(work)
    for name in VARIANTS:
        for value, truth in zip(work.variants[name](), eager.variants[name](), strict=True):
            assert torch.equal(value, truth)
    assert sorted(graph.replays for graph in graphs) == [1, 2, 4]  # raw; ours; a pass, published


def test_a_graph_reads_the_images_of_its_call(monkeypatch):
    mock_cuda_graphs(monkeypatch)
    double = inference_bench.Graphed(lambda images: (2 * images,), torch.zeros(1, 3, 2, 2))
    assert bool((double(torch.ones(1, 3, 2, 2))[0] == 2).all())


@pytest.mark.slow
def test_the_network_is_compiled_once(monkeypatch):
    """Without inductor, which would take a minute here; both passes are of one size."""
    traced = []
    torch.compiler.reset()  # what was compiled before decides which shapes are dynamic

    def backend(graph, inputs):
        traced.append(graph)
        return graph

    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda it: compile_module(it, backend=backend))
    work = views_work(mode=run.COMPILED)
    run.check(work)
    assert not work.notes and len(traced) == 1


def test_the_works(monkeypatch):
    made = []
    monkeypatch.setattr(
        inference_bench,
        "views_work",
        lambda sizes, device, dtype, mode, name: made.append((sizes["B"], mode, sizes["H"], name)),
    )

    def modes(*arguments) -> dict[int, list[str]]:
        made.clear()
        options = run.parse("", arguments, inference_bench.OPTIONS, inference_bench.BATCHES)
        list(inference_bench.works(options))
        assert {it[2:] for it in made} == {(options.image_size, options.backbone)}
        return {batch: sorted({it[1] for it in made if it[0] == batch}) for batch, *_ in made}

    assert modes() == {1: ["compiled", "eager"]}
    assert modes("--batch", "3", "--no-compile", "--image-size", "64") == {3: ["eager"]}
    everything = ["compiled", "eager", "graph"]
    assert modes("--device", gpu.NAME) == dict.fromkeys((1, 16, 128), everything)


def test_the_command(tmp_path, monkeypatch, capsys):
    facts = {**report.machine("cpu"), "copy_gb_per_s": 1.0, "matmul_gflop_per_s": 1.0}
    monkeypatch.setattr(run, "machine", lambda device: facts)
    out = tmp_path / "rows.json"
    network = ["--backbone", "tiny", "--image-size", "64", "--batch", "2", "--no-compile"]
    short = ["--repeats", "2", "--fewest", "1", "--only", "float32", "--json", str(out)]
    options = run.parse("", network + short, inference_bench.OPTIONS, inference_bench.BATCHES)
    assert run.run(inference_bench.works, options) == 0
    rows = [report.Row(**row) for row in json.loads(out.read_text())["rows"]]
    assert [row.variant for row in rows] == VARIANTS
    raw = rows[-1].median_ms
    for row in rows:
        assert (row.unit, row.limit) == ("images/s", run.RAW)
        assert row.rate == pytest.approx(2e3 / row.median_ms)
        assert row.share == pytest.approx(raw / row.median_ms)
    assert "inference, B 2 M 32 tiny 64 px float32 eager" in capsys.readouterr().out
