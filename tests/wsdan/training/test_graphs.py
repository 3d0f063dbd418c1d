"""The training step as a CUDA graph, mocked on the CPU, equals the eager step."""

import contextlib
import json

import pytest
import torch
from tape import mock_cuda_graphs, waits
from torch import nn
from training import SIZES, WHOLE, assert_same_run, batches, float32_lrs, new_model, run, settings

import wsdan.training.loop
from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.data import loaders
from wsdan.errors import UserError
from wsdan.training.graphs import WARM_UP, GraphedStep
from wsdan.training.objective import OBJECTIVES
from wsdan.training.optim import build_optimizer, load_optimizer
from wsdan.training.step import build_step


@pytest.fixture
def graphs(monkeypatch):
    return mock_cuda_graphs(monkeypatch)


@pytest.mark.parametrize("method", ["wsdan", "baseline"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_graph_trains_as_the_eager_step_bit_for_bit(optimizer, method, graphs):
    eager = run(settings(optimizer, method), before=float32_lrs)
    found = run(settings(optimizer, method, cuda_graph=True))
    assert_same_run(found, eager)
    assert len({float(result["loss"]) for result in found[0]}) == len(SIZES)
    (graph,) = graphs
    assert graph.replays == SIZES.count(WHOLE) - WARM_UP
    assert {"loss", "correct"} <= set(found[0][0])


def test_a_graph_pairs_the_images_of_each_batch(graphs):
    """Whose labels differ from those of the captured one."""
    options = {"calmix": 1.0, "counterfactual": 1.0}
    eager = run(settings(**options), before=float32_lrs)
    assert_same_run(run(settings(cuda_graph=True, **options)), eager)
    assert all(float(result["mix"]) > 0 for result in eager[0])


def test_learning_rates_in_float64_change_the_losses_by_rounding_only(graphs):
    eager, _ = run(settings("adamw"))
    found, _ = run(settings("adamw", cuda_graph=True))
    for one, other in zip(found, eager, strict=True):
        torch.testing.assert_close(one["loss"], other["loss"], rtol=1e-4, atol=0)


def test_a_learning_rate_that_is_no_tensor_would_not_change(graphs, monkeypatch):
    """The mock keeps Python's numbers as a graph does, so the comparisons above can fail."""
    eager, _ = run(settings("adamw"))
    monkeypatch.setattr(GraphedStep, "_lrs_on_device", lambda self: contextlib.nullcontext())
    found, _ = run(settings("adamw", cuda_graph=True))
    losses = [[float(result["loss"]) for result in results] for results in (found, eager)]
    captured = 4  # the first full batch after the warm-up; its learning rate is right
    assert losses[0][: captured + 1] == losses[1][: captured + 1]
    assert losses[0][-1] != pytest.approx(losses[1][-1], rel=1e-3)


def test_a_step_that_waits_is_refused_at_the_capture(graphs, monkeypatch):
    def waiting(model, images, labels, **options):
        result = OBJECTIVES["baseline"](model, images, labels)
        return result if result["loss"].item() > 0 else {}

    monkeypatch.setitem(OBJECTIVES, "wsdan", waiting)
    with pytest.raises(AssertionError, match="_local_scalar_dense.* waits for the device"):
        run(settings(cuda_graph=True))


def test_an_error_of_the_capture_is_one_line(graphs, monkeypatch):
    """The step's error, not the one that ending a failed capture raises."""

    @contextlib.contextmanager
    def failing_capture(graph, **options):
        try:
            yield
        finally:
            raise RuntimeError("CUDA error: a previous error during capture")

    def failing(*batch):
        if graphs:
            raise RuntimeError("CUDA error: operation not permitted\nmore lines")
        return {}

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    monkeypatch.setattr(torch.cuda, "graph", failing_capture)
    step = GraphedStep(failing, optimizer, 1)
    batch = torch.zeros(1), torch.zeros(1)
    for _ in range(WARM_UP):
        step(*batch)
    with pytest.raises(UserError, match="^--cuda-graph: .*: CUDA error: operation not permitted$"):
        step(*batch)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_no_autograd_graph_outlives_a_step():
    """A node that accumulates a gradient keeps its stream: a capture must not find an old one."""
    model = new_model().train()
    config = settings()
    optimizer = build_optimizer(model, config)
    edge = torch.autograd.graph.get_gradient_edge

    def mark(module, *_):
        edge(module.classifier.weight).node.metadata["marked"] = True

    model.register_forward_hook(mark)
    images, labels, uniforms = batches()[0]
    result = OBJECTIVES["wsdan"](model, images, labels)
    assert "marked" in edge(model.classifier.weight).node.metadata
    del result
    results = build_step(model, optimizer, config)(images, labels, uniforms)
    assert "marked" not in edge(model.classifier.weight).node.metadata
    assert not any(value.requires_grad for value in results.values())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_optimizer_loads_the_state_of_another_implementation(optimizer):
    config = settings(optimizer)
    model = new_model().train()
    first = build_optimizer(model, config)
    build_step(model, first, config)(*batches()[0])
    state = first.state_dict()
    for group in state["param_groups"]:
        group |= {"fused": None, "foreach": True}
    current = build_optimizer(model, config)
    options = [dict(group) for group in current.param_groups]
    load_optimizer(current, state)
    for group, mine in zip(current.param_groups, options, strict=True):
        for name in ("fused", "capturable", "foreach"):
            assert group.get(name) == mine.get(name)
    build_step(model, current, config)(*batches()[1])
    if optimizer == "adamw":
        assert {float(item["step"]) for item in current.state.values()} == {2.0}
    with pytest.raises(ValueError, match="zip"):
        load_optimizer(current, {"param_groups": []})


def test_train_and_resume_with_a_graph(graphs, tmp_path, monkeypatch, capsys):
    """The command, on the CPU; then resumed without a graph and with one."""
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 32)  # four batches
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)
    monkeypatch.setattr(wsdan.training.loop, "check_device", lambda *arguments: None)
    command = [
        "train",
        "--batch-size",
        "8",
        "--image-size",
        "32",
        "--eval-every",
        "9",
        "--no-plots",
        "--views-after",
        "0",
    ]
    command += ["--device", "cpu"]
    losses = {}
    for name, options in {"eager": [], "graph": ["--cuda-graph"]}.items():
        out = str(tmp_path / name)
        assert main([*command, "--epochs", "2", "--out", out, *options]) == 0
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["loss"] for line in lines]
    assert losses["graph"] == pytest.approx(losses["eager"], rel=1e-4)
    (graph,) = graphs
    assert graph.replays == 2 * 4 - WARM_UP
    state = load_checkpoint(tmp_path / "graph/last.pt")
    assert state["config"].cuda_graph
    assert all(type(group["lr"]) is float for group in state["optimizer"]["param_groups"])
    resume = [*command, "--epochs", "3", "--out", str(tmp_path / "graph"), "--resume"]
    assert main([*resume, "--no-cuda-graph"]) == 0
    assert len(graphs) == 1
    assert main([*resume, "--epochs", "4", "--cuda-graph"]) == 0
    assert graphs[1].replays == 4 - WARM_UP


def test_unsupported_options_of_a_graph_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--device", "cpu", "--cuda-graph"]) == 2
    error = capsys.readouterr().err
    assert error == "wsdan: error: --cuda-graph needs --device cuda and a GPU; this run is on cpu\n"
    assert main(["train", "--cuda-graph", "--profile"]) == 2
    assert "--cuda-graph and --profile exclude each other" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_operators_that_wait_for_the_device():
    ops, values = torch.ops.aten, torch.ones(3)
    assert waits(ops._local_scalar_dense.default, (values,))
    assert waits(ops.nonzero.default, (values,))
    assert waits(ops.masked_select.default, (values, values > 0))
    assert waits(ops.equal.default, (values, values))
    assert waits(ops.index.Tensor, (values, [values > 0]))
    assert waits(ops.index_put_.default, (values, [values > 0], values))
    assert not waits(ops.index.Tensor, (values, [None, values.long()]))
    assert not waits(ops.add.Tensor, (values, values))
