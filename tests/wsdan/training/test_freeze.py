"""--freeze, and what is said of a cosine schedule that goes on."""

import pytest
import torch
from runs import SMALL, ranks

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.data import loaders


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)


RUN = [*SMALL, "--log-images", "0", "--warmup", "0"]


def weights(folder) -> dict:
    return load_checkpoint(folder / "last.pt")["model"]


def changed(before: dict, after: dict, part: str) -> set[str]:
    return {
        name for name in before if name.startswith(part) and not before[name].equal(after[name])
    }


def test_a_frozen_backbone_stays_and_then_trains(tmp_path):
    """Weights, batch norm statistics and their counts; weight decay and momentum too."""
    options = ["--freeze", "2", "--optimizer", "sgd", "--weight-decay", "0.1"]
    ends = []
    for epochs in ("1", "2", "3"):
        command = [*RUN, *options, "--schedule", "step", "--epochs", epochs]
        resume = ["--resume"] if ends else []
        assert main([*command, *resume, "--out", str(tmp_path)]) == 0
        ends.append(weights(tmp_path))
    assert changed(ends[0], ends[1], "backbone.") == set()
    assert changed(ends[0], ends[1], "attention.")
    assert changed(ends[0], ends[1], "classifier.") == {"classifier.weight", "classifier.bias"}
    trained = changed(ends[1], ends[2], "backbone.")
    assert trained == {name for name in ends[0] if name.startswith("backbone.")}


def test_a_resumed_frozen_run_is_the_same_as_one_in_one_go(tmp_path):
    command = [*RUN, "--freeze", "1", "--schedule", "step", "--save-every", "1"]
    assert main([*command, "--epochs", "2", "--out", str(tmp_path / "a")]) == 0
    assert main([*command, "--epochs", "1", "--out", str(tmp_path / "b")]) == 0
    assert main([*command, "--epochs", "2", "--out", str(tmp_path / "b"), "--resume"]) == 0
    assert changed(weights(tmp_path / "a"), weights(tmp_path / "b"), "") == set()


@pytest.mark.slow
def test_two_ranks_freeze(tmp_path):
    """DistributedDataParallel waits for no gradient that never comes."""
    options = ["--freeze", "1", "--schedule", "step", "--epochs", "2", "--out", str(tmp_path)]
    result = ranks(*RUN, *options)
    assert result.returncode == 0, result.stderr
    state = weights(tmp_path)
    assert all(torch.isfinite(value).all() for value in state.values())


def test_more_epochs_on_a_cosine_say_that_the_rate_rises(tmp_path, capsys):
    cosine = [*RUN, "--schedule", "cosine", "--out", str(tmp_path)]
    assert main([*cosine, "--epochs", "1"]) == 0
    assert "rises" not in capsys.readouterr().err
    assert main([*cosine, "--epochs", "1", "--resume"]) == 0
    assert "rises" not in capsys.readouterr().err
    assert main([*cosine, "--epochs", "3", "--resume"]) == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "learning rate rises from" in x]
    assert "the cosine schedule now ends after 3 epochs, not 1" in line
