"""A stopped and resumed run ends equal to an uninterrupted one, bit for bit, from any step."""

import os
import shutil
import signal
from functools import partial

import pytest
import torch
from runs import SMALL, acting_at, assert_same_end, metrics_of, refused
from torch import nn

import wsdan.training.loop
import wsdan.training.run
from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.data import loaders
from wsdan.errors import UserError
from wsdan.inference.evaluate import evaluate
from wsdan.networks import backbones
from wsdan.networks.backbones import Tiny
from wsdan.training.signals import StopSignals

STEPS = 6  # of an epoch
COMMAND = [*SMALL, "--epochs", "3", "--eval-every", "2"]


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 8 * STEPS + 3)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 17)


def stopping_at(step_number: int, number: signal.Signals):
    """A build_step whose training step sends this process a signal at its call `step_number`."""
    return acting_at(step_number, partial(os.kill, os.getpid(), number))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "at", "number"),
    [
        ([], 8, signal.SIGTERM),  # in the second epoch
        ([], STEPS, signal.SIGINT),  # an epoch's last step, before its evaluation
        (["--optimizer", "sgd", "--lr", "1e-2", "--ema", "0.9"], 14, signal.SIGTERM),
        (["--workers", "2", "--accumulate", "2"], 4, signal.SIGTERM),
        (["--precision", "bf16", "--joint-views", "--label-smoothing", "0.1"], 7, signal.SIGTERM),
        (["--counterfactual", "1"], 7, signal.SIGTERM),
        (["--calmix", "1", "--counterfactual", "1"], 8, signal.SIGTERM),
        (["--method", "baseline"], 8, signal.SIGTERM),
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(options, at, number, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*COMMAND, *options, "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(wsdan.training.run, "build_step", stopping_at(at, number))
        assert main([*COMMAND, *options, "--out", str(broken)]) == 128 + number
    captured = capsys.readouterr()
    assert f"wsdan: stopped by {number.name} at epoch" in captured.err
    assert f"to go on: wsdan train --resume --out {broken}" in captured.err
    state = load_checkpoint(broken / "last.pt")
    size = 16 if "--accumulate" in options else 8
    steps = (8 * STEPS + 3) // size
    progress = state["ranks"][0]["progress"]
    assert (progress["epoch"], progress["seen"]) == (
        (at - 1) // steps,
        ((at - 1) % steps + 1) * size,
    )
    assert main([*COMMAND, *options, "--out", str(broken), "--resume"]) == 0
    assert_same_end(broken, whole)


def test_dropout_resumes_bit_for_bit(tmp_path, monkeypatch):
    """The network's own random numbers."""

    class Dropping(Tiny):
        def __init__(self):
            super().__init__()
            self.append(nn.Dropout2d(0.5))

    monkeypatch.setattr(backbones, "Tiny", Dropping)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*COMMAND, "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(wsdan.training.run, "build_step", stopping_at(8, signal.SIGTERM))
        assert main([*COMMAND, "--out", str(broken)]) == 143
    assert main([*COMMAND, "--out", str(broken), "--resume"]) == 0
    assert_same_end(broken, whole)


def test_a_signal_during_the_evaluation(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*COMMAND, "--out", str(whole)]) == 0

    def signalled(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(wsdan.training.loop, "evaluate", signalled)
        assert main([*COMMAND, "--out", str(broken)]) == 143
    assert len(metrics_of(broken)) == 1
    shutil.copytree(broken, tmp_path / "other")
    assert main([*COMMAND, "--out", str(broken), "--resume"]) == 0
    assert_same_end(broken, whole)
    # The metrics of a trained epoch do not depend on the batch size that resumes it, but for the
    # rounding of scores.
    again = [*COMMAND, "--out", str(tmp_path / "other"), "--resume", "--batch-size", "10"]
    assert main(again) == 0
    found, expected = (metrics_of(folder)[:2] for folder in (tmp_path / "other", whole))
    for name in ("val_ece", "val_confidence"):
        assert found[1].pop(name) == pytest.approx(expected[1].pop(name), rel=1e-6)
    assert found == expected


def test_an_unreadable_image_does_not_wait_for_other_ranks(tmp_path, monkeypatch, capsys):
    """In an evaluation: the other ranks can read theirs, and wait in another collective."""

    def failing(*_, **__):
        monkeypatch.setattr(StopSignals, "agreed", None)  # a collective
        raise UserError("a.jpg: not a readable image")

    monkeypatch.setattr(wsdan.training.loop, "evaluate", failing)
    assert "a.jpg" in refused(capsys, *COMMAND, "--out", tmp_path / "out")


def test_checkpoints_within_an_epoch(tmp_path, monkeypatch):
    """--save-every: a killed run loses the steps since the last save, and repeats them."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*COMMAND, "--out", str(whole)]) == 0

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(wsdan.training.run, "build_step", acting_at(STEPS + 4, kill))
        with pytest.raises(Killed):
            main([*COMMAND, "--save-every", "2", "--out", str(killed)])
    progress = load_checkpoint(killed / "last.pt")["ranks"][0]["progress"]
    assert (progress["epoch"], progress["seen"]) == (1, 16)
    with open(killed / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 1, "lo')  # as a killed run may leave it
    assert main([*COMMAND, "--save-every", "2", "--out", str(killed), "--resume"]) == 0
    assert_same_end(killed, whole)


def test_resuming_a_finished_run_and_a_longer_one(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main([*COMMAND, "--out", out]) == 0
    assert main([*COMMAND, "--out", out, "--resume"]) == 0  # no epoch is left
    assert "mean of both" in capsys.readouterr().out
    assert len(metrics_of(tmp_path / "out")) == 3
    assert main([*COMMAND, "--epochs", "4", "--out", out, "--resume"]) == 0
    assert [record["epoch"] for record in metrics_of(tmp_path / "out")] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--num-attentions", "5"], "is of another run: --num-attentions was 4 there and is 5 now"),
        (["--lr", "0.5"], "is of another run: --lr was 0.008 there and is 0.5 now"),
        (["--ema", "0.9"], "is of another run: --ema was 0.0 there and is 0.9 now"),
    ],
)
def test_another_run_is_refused(options, text, tmp_path, capsys):
    assert main([*SMALL, "--epochs", "1", "--out", str(tmp_path / "out")]) == 0
    assert text in refused(
        capsys, *SMALL, "--epochs", "2", "--out", tmp_path / "out", "--resume", *options
    )


def test_another_step_size_must_divide_the_images_seen(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(wsdan.training.run, "build_step", stopping_at(3, signal.SIGTERM))
        assert main([*SMALL, "--epochs", "2", "--out", str(out)]) == 143
    again = [*SMALL, "--epochs", "2", "--out", str(out), "--resume", "--batch-size"]
    assert "has seen 24 images of epoch 1, which steps of 16" in refused(capsys, *again, "16")
    assert main([*again, "12"]) == 0
    assert [record["epoch"] for record in metrics_of(out)] == [0, 1]
    assert all(record["loss"] > 0 for record in metrics_of(out))


def test_a_converted_model_cannot_be_resumed(tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*SMALL, "--epochs", "1", "--out", str(out)]) == 0
    state = torch.load(out / "last.pt", weights_only=True)
    del state["ranks"]
    torch.save(state, out / "last.pt")
    assert "holds a model but no run to resume" in refused(
        capsys, *SMALL, "--epochs", "2", "--out", out, "--resume"
    )
