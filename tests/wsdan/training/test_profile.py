"""`wsdan train --profile`: exclusive times, the printed table, and unchanged training."""

import json
import re

import pytest
import torch
import yaml
from torch import nn

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.config import Config, from_dict
from wsdan.data import loaders
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import WSDAN, PlainClassifier
from wsdan.profiling import NO_PROFILER, ORDER, WARM_UP, StepProfiler, device_clock
from wsdan.training.objective import wsdan_objective

PLAIN = ("data", "backbone forward", "classifier and losses", "backward", "optimizer", "other")


class Clock:
    """A clock of which only `sleep` moves the time."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def waiting(clock: Clock, seconds: list[float]):
    """Batches that take these seconds to load."""
    for number, wait in enumerate(seconds):
        clock.sleep(wait)
        yield number


def rows_of(printed: str) -> dict[str, tuple[float, float]]:
    """Milliseconds and percent in each row of a printed table."""
    rows = re.findall(r"^(\w[\w ]*?) +(\d+\.\d\d) +(\d+\.\d) %$", printed, re.MULTILINE)
    return {name: (float(ms), float(share)) for name, ms, share in rows}


def test_time_counts_for_the_innermost_phase(clock):
    profiler = StepProfiler(clock)
    for _ in profiler.data(waiting(clock, [2.0])):
        clock.sleep(1)
        with profiler("classifier and losses"):
            clock.sleep(4)
            with profiler("views"):
                clock.sleep(8)
            clock.sleep(16)
            with profiler("views"):
                clock.sleep(32)
        with profiler("data"):
            clock.sleep(64)
        clock.sleep(128)
        profiler.end_step()
    expected = {"data": 66, "views": 40, "classifier and losses": 20, "other": 129}
    assert profiler.seconds == expected
    assert (profiler.steps, profiler.measured) == (1, 1)
    rows = rows_of(profiler.table())
    assert [name for name in ORDER if name in expected] + ["step"] == list(rows)
    assert rows.pop("step") == (255_000, 100)
    assert sum(ms for ms, _ in rows.values()) == 255_000
    assert sum(share for _, share in rows.values()) == pytest.approx(100, abs=0.3)


def test_the_warm_up_is_left_out_if_other_steps_follow(clock):
    profiler = StepProfiler(clock)
    assert profiler.table() == "profile: no training step was run"
    waits = [50.0] * WARM_UP + [2.0, 4.0]
    for number in profiler.data(waiting(clock, waits)):
        profiler.end_step()
        if number == WARM_UP - 1:
            assert (profiler.seconds["data"], profiler.measured) == (50 * WARM_UP, WARM_UP)
            assert "mean of 3 steps, among the first 3" in profiler.table()
    assert (profiler.seconds["data"], profiler.measured) == (6, 2)
    assert rows_of(profiler.table())["data"] == (3000, 100)
    assert "mean of 2 steps, after the first 3" in profiler.table()


def test_time_between_epochs_is_left_out_and_a_skipped_batch_belongs_to_the_next_step(clock):
    profiler = StepProfiler(clock)
    for _ in range(2):
        clock.sleep(1000)
        with profiler("pooling"):  # an evaluation
            clock.sleep(1000)
        for number in profiler.data(waiting(clock, [3.0, 5.0, 0.0])):
            if number == 0:
                continue
            clock.sleep(1)
            profiler.end_step()
    assert profiler.steps == 4
    assert profiler.measured == 1
    assert profiler.seconds == {"data": 0, "other": 1}


def test_the_modules_of_a_model_are_timed(clock):
    """In all three passes; of a plain classifier only its backbone."""

    def slow(module: nn.Module, seconds: float) -> None:
        module.register_forward_hook(lambda *_: clock.sleep(seconds))

    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 1])
    model = WSDAN("tiny", num_classes=3, num_attentions=4)
    for part, seconds in {"backbone": 1, "attention": 10, "pool": 100, "classifier": 1000}.items():
        slow(getattr(model, part), seconds)
    profiler = StepProfiler(clock, model)
    for _ in profiler.data([None]):
        with profiler("classifier and losses"):
            wsdan_objective(model, images, labels, profiler=profiler)
        profiler.end_step()
    parts = {"backbone forward": 3, "attention maps": 30, "pooling": 300}
    losses = {"classifier and losses": 3000, "views": 0, "data": 0, "other": 0}
    assert profiler.seconds == parts | losses

    plain = PlainClassifier(build_backbone("tiny"), 3)
    profiler = StepProfiler(clock, plain)
    for _ in profiler.data([None]):
        plain(images)
        profiler.end_step()
    assert set(profiler.seconds) == {"data", "backbone forward", "other"}


def test_no_profiler_returns_the_batches_themselves():
    batches = [1, 2]
    assert NO_PROFILER.data(batches) is batches
    with NO_PROFILER("views"):
        NO_PROFILER.end_step()


def test_the_objective_still_compiles_whole():
    torch.manual_seed(0)
    model = WSDAN("tiny", num_classes=3, num_attentions=4)
    compiled = torch.compile(wsdan_objective, backend="eager", fullgraph=True)
    result = compiled(model, torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 1]))
    assert torch.isfinite(result["loss"])


def test_only_a_gpu_is_waited_for(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    device_clock(torch.device("cpu"))()
    assert waits == []
    before = device_clock(torch.device("cuda"))
    assert before() <= before()
    assert waits == [torch.device("cuda")] * 2


@pytest.mark.parametrize(("method", "names"), [("wsdan", ORDER), ("baseline", PLAIN)])
def test_a_profiled_run_prints_its_phases_and_has_the_same_losses(
    method, names, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 48)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 32)
    command = ["train", "--batch-size", "16", "--image-size", "48", "--epochs", "2", "--no-plots"]
    command += ["--method", method, "--out"]
    assert main([*command, str(tmp_path / "off")]) == 0
    assert "ms/step" not in capsys.readouterr().out
    assert main([*command, str(tmp_path / "on"), "--profile"]) == 0
    printed = capsys.readouterr().out
    assert "mean of 3 steps, after the first 3" in printed
    rows = rows_of(printed)
    assert list(rows) == [*names, "step"]
    milliseconds, share = rows.pop("step")
    assert sum(ms for ms, _ in rows.values()) == pytest.approx(milliseconds, abs=0.05)
    assert share == 100
    assert sum(share for _, share in rows.values()) == pytest.approx(100, abs=0.5)
    for name in set(names) - {"other"}:
        assert rows[name][0] > 0, name

    runs = []
    for name in ("off", "on"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        runs.append([json.loads(line) for line in lines])
        for record in runs[-1]:
            record.pop("seconds")
    assert runs[0] == runs[1]


def test_the_option_is_not_written_to_config_yaml():
    config = from_dict({"profile": True}, "settings.yaml")
    assert config.profile
    assert not Config().profile
    assert "profile" not in yaml.safe_load(config.to_yaml())


def test_the_checkpoint_of_a_profiled_run_is_like_any_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 32)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 16)
    out = str(tmp_path / "out")
    command = ["train", "--batch-size", "16", "--image-size", "48", "--epochs", "1", "--out", out]
    command += ["--no-plots"]
    assert main([*command, "--profile"]) == 0
    assert main(["eval", "--checkpoint", f"{out}/last.pt"]) == 0
    assert not any("pool." in name for name in load_checkpoint(f"{out}/last.pt")["model"])
    capsys.readouterr()
    assert main([*command, "--resume", "--profile"]) == 0  # no epoch is left
    assert "profile: no training step was run" in capsys.readouterr().out
    assert main([*command, "--resume"]) == 0
    assert "profile" not in capsys.readouterr().out
