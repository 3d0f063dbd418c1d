"""On an NVIDIA GPU: the training step waits for nothing, and its CUDA graph trains as it does.

Without one the eager step and the loop run on the CPU, so that these tests follow their interface.
"""

import json

import pytest
import torch
from batches import make_batch
from parity import GPU
from training import SIZES, WHOLE, assert_same_run, batches, float32_lrs, new_model, run, settings

from wsdan.cli import main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.data.loaders import train_loader
from wsdan.data.samplers import EpochBatchSampler
from wsdan.training.graphs import WARM_UP, GraphedStep
from wsdan.training.logging import RunLogger
from wsdan.training.loop import epoch_record, train_one_epoch
from wsdan.training.optim import build_optimizer
from wsdan.training.run import Run
from wsdan.training.signals import StopSignals
from wsdan.training.skips import CHECK_EVERY
from wsdan.training.state import new_state
from wsdan.training.step import build_step

needs_gpu = pytest.mark.skipif(GPU == "cpu", reason="needs an NVIDIA GPU")
METHODS, OPTIMIZERS = ["wsdan", "baseline"], ["sgd", "adamw"]


@pytest.fixture
def refusing():
    """A function after which every wait for the device is an error."""
    yield lambda: sync_debug_mode("error")
    sync_debug_mode("default")


def sync_debug_mode(mode: str) -> None:
    if GPU == "cuda":
        torch.cuda.set_sync_debug_mode(mode)


@pytest.fixture
def deterministic(monkeypatch):
    """cuDNN's convolutions give the same bits each time."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


def on_gpu(side: int = 48) -> list[list[torch.Tensor]]:
    return [[tensor.to(GPU) for tensor in batch] for batch in batches(side)]


@needs_gpu
def test_a_wait_is_an_error(refusing):
    value = torch.ones(3, device="cuda")
    refusing()
    with pytest.raises(RuntimeError, match="synchronizing"):
        value.sum().item()


@pytest.mark.parametrize(
    ("optimizer", "method", "backbone"),
    [
        ("sgd", "wsdan", "tiny"),
        *[
            pytest.param(*values, marks=needs_gpu)
            for values in (
                ("sgd", "baseline", "tiny"),
                ("adamw", "wsdan", "tiny"),
                ("adamw", "baseline", "tiny"),
                ("sgd", "wsdan", "resnet18"),
                ("sgd", "wsdan", "inception_v3"),
            )
        ],
    ],
)
def test_the_step_waits_for_nothing(optimizer, method, backbone, refusing):
    model = new_model(method, backbone).to(GPU).train()
    config = settings(optimizer, method)
    step = build_step(model, build_optimizer(model, config), config)
    data = on_gpu(96)[:2]
    for batch in data:  # libraries are set up, kernels compiled
        step(*batch)
    refusing()
    losses = [step(*batch)["loss"] for batch in data]
    sync_debug_mode("default")
    assert all(torch.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("cuda_graph", [False, pytest.param(True, marks=needs_gpu)])
def test_the_loop_waits_at_its_end_only(cuda_graph, refusing, tmp_path):
    """Copies from pinned memory, steps and the schedule; flags and means are read when all is
    done, or every CHECK_EVERY steps."""
    config = settings(cuda_graph=cuda_graph, backbone="tiny", image_size=48, num_attentions=4)
    count = CHECK_EVERY - 1
    order = EpochBatchSampler(count * WHOLE, WHOLE, seed=0)
    device = torch.device("cuda", 0) if GPU == "cuda" else torch.device("cpu")
    state = new_state(config, ["a", "b", "c"], device, order)
    step = build_step(state.model, state.optimizer, config)
    for batch in on_gpu():  # the capture waits for the device
        step(*batch)
    batch = make_batch(*batches()[0][:2])
    batch = batch.pin_memory() if GPU == "cuda" else batch
    ends = []

    def until_the_last():
        yield from [batch] * count
        sync_debug_mode("default")
        ends.append(True)

    run = Run(
        state=state, step=step, train_loader=until_the_last(), val_loader=[], device=device,
        folder=tmp_path, logger=RunLogger(None, config), stop=StopSignals(),
    )  # fmt: skip
    refusing()
    train_one_epoch(run)
    assert ends
    assert epoch_record(state)["loss"] > 0


@needs_gpu
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_graph_trains_as_the_eager_step_bit_for_bit(optimizer, method, deterministic):
    """Losses, weights, centers, statistics, optimizer and the generator, after every kind of step.

    With rates of float32, as the graph reads them, and a network whose kernels are deterministic.
    """
    eager = run(settings(optimizer, method), before=float32_lrs, device="cuda")
    found = run(settings(optimizer, method, cuda_graph=True), device="cuda")
    assert len({float(result["loss"]) for result in found[0]}) == len(SIZES)
    assert_same_run(found, eager)


@needs_gpu
@pytest.mark.parametrize("backbone", ["resnet18", "inception_v3"])
def test_the_first_replay_has_the_loss_of_the_eager_step(backbone, deterministic):
    whole = [batch for batch in on_gpu(96) if len(batch[1]) == WHOLE][: WARM_UP + 1]
    losses = []
    for cuda_graph in (False, True):
        model = new_model("wsdan", backbone).cuda().train()
        config = settings(cuda_graph=cuda_graph)
        step = build_step(model, build_optimizer(model, config), config)
        torch.cuda.manual_seed(5)
        losses.append([float(step(*batch)["loss"]) for batch in whole])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@needs_gpu
def test_replays_draw_new_views(deterministic):
    """The random numbers come with the batch: the same images have other losses."""
    model = new_model().cuda().train()
    config = Config(batch_size=WHOLE, lr=0.0, weight_decay=0.0, cuda_graph=True).resolved()
    step = build_step(model, build_optimizer(model, config), config)
    assert isinstance(step, GraphedStep)
    images, labels, _ = on_gpu()[0]
    losses = [
        {name: float(value) for name, value in step(images, labels, uniforms).items()}
        for uniforms in torch.rand(WARM_UP + 5, len(labels), 4, device="cuda")
    ]
    assert len({result["crop"] for result in losses[WARM_UP:]}) > 1
    assert len({result["raw"] for result in losses}) == 1


@needs_gpu
@pytest.mark.parametrize("workers", ["0", "1"])
def test_train_with_a_graph(workers, tmp_path, monkeypatch, deterministic):
    """The command, with and without; workers: images are pinned by a thread while it captures."""
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 64)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 16)
    command = ["train", "--batch-size", "8", "--image-size", "48", "--workers", workers]
    losses = {}
    for name, options in {"eager": [], "graph": ["--cuda-graph"]}.items():
        out = tmp_path / name
        assert main([*command, "--epochs", "2", "--out", str(out), *options]) == 0
        lines = (out / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["loss"] for line in lines]
    assert losses["graph"] == pytest.approx(losses["eager"], rel=1e-2)
    resume = [*command, "--out", str(tmp_path / "graph"), "--resume"]
    assert main([*resume, "--epochs", "3", "--no-cuda-graph"]) == 0
    assert main([*resume, "--epochs", "4", "--device", "cpu"]) == 0
    assert main([*resume, "--epochs", "5", "--cuda-graph"]) == 0


@needs_gpu
def test_training_batches_are_pinned(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 8)
    for device, pinned in (("auto", True), ("cpu", False)):
        config = Config(batch_size=4, image_size=48, device=device).resolved()
        batch = next(iter(train_loader(config)[0]))
        assert batch.images.is_pinned() == batch.labels.is_pinned() == pinned
