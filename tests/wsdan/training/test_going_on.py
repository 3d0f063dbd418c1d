"""How a run goes on: by --resume and its folder alone, or anew where it had saved nothing."""

import os
import re
import shlex
import signal
from functools import partial

import pytest
import yaml
from runs import SMALL, acting_at, assert_same_end, metrics_of, refused
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import wsdan.training.run
from wsdan.cli import main
from wsdan.data import loaders
from wsdan.errors import UserError

COMMAND = [*SMALL, "--log-images", "0", "--lr", "1e-3", "--save-every", "1", "--epochs"]


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)


def stop(monkeypatch, command: list[str], number: signal.Signals = signal.SIGTERM) -> None:
    """Run the command, and stop it in its first step."""
    act = partial(os.kill, os.getpid(), number)
    with monkeypatch.context() as patch:
        patch.setattr(wsdan.training.run, "build_step", acting_at(1, act))
        assert main(command) == 128 + number


def test_resume_needs_the_folder_only(tmp_path, monkeypatch, capsys):
    """Its other settings are those of config.yaml; options that may change override them."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    stop(monkeypatch, [*COMMAND, "2", "--out", str(out)])
    assert main(["train", "--resume", "--out", str(out), "--eval-every", "2"]) == 0
    assert main([*COMMAND, "2", "--eval-every", "2", "--out", str(whole)]) == 0
    assert_same_end(out, whole)
    assert yaml.safe_load((out / "config.yaml").read_text())["eval_every"] == 2
    error = refused(capsys, "train", "--resume", "--out", out, "--lr", "0.5")
    assert "is of another run: --lr was 0.001 there and is 0.5 now" in error


def test_resume_with_a_file_of_settings(tmp_path, monkeypatch):
    """It overrides config.yaml, however a name is spelled there, and options override it."""
    out, path = tmp_path / "out", tmp_path / "a.yaml"
    stop(monkeypatch, [*COMMAND, "1", "--out", str(out)])
    path.write_text(f"resume: true\nout: {out}\neval-every: 3\nsave-every: 7\n")
    assert main(["train", "--config", str(path), "--save-every", "5"]) == 0
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert (settings["eval_every"], settings["save_every"], settings["lr"]) == (3, 5, 1e-3)


def test_a_broken_config_of_a_run_is_one_line(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    stop(monkeypatch, [*COMMAND, "1", "--out", str(out)])
    command = ["train", "--resume", "--out", out]
    for text, message in {
        "a: [": "line 1: expected `name: value`",
        "bird: 7": "unknown setting 'bird'",
        "epochs: x": "epochs must be of type int",
    }.items():
        (out / "config.yaml").write_text(text)
        error = refused(capsys, *command)
        assert message in error
        assert str(out / "config.yaml") in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_message_of_a_stopped_run_is_the_command_that_goes_on(
    number, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "a run's"
    stop(monkeypatch, [*COMMAND, "1", "--out", str(out)], number)
    (line,) = capsys.readouterr().err.splitlines()
    found = re.fullmatch(
        r"wsdan: stopped by \w+ at epoch 1, 8 images into it; to go on: (.*)", line
    )
    program, *arguments = shlex.split(found[1])
    assert program == "wsdan"
    assert main(arguments) == 0
    assert [record["epoch"] for record in metrics_of(out)] == [0]


def test_the_command_of_several_ranks(monkeypatch, tmp_path):
    monkeypatch.setattr("wsdan.training.launch.world_size", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    command = wsdan.training.launch.resume_command(tmp_path)
    assert command == f"torchrun --nproc-per-node 4 -m wsdan train --resume --out {tmp_path}"


def fail(*_):
    raise UserError("a mistake")


def test_a_run_that_failed_before_its_first_checkpoint_blocks_no_other(
    tmp_path, monkeypatch, capsys
):
    command = [*COMMAND, "2", "--out", str(tmp_path)]
    for at in (1, 3):  # after an epoch too, whose checkpoint could not be written
        with monkeypatch.context() as patch:
            patch.setattr(wsdan.training.run, "build_step", acting_at(at, fail))
            patch.setattr("wsdan.training.loop._save_file", lambda *_: False)
            assert "a mistake" in refused(capsys, *command)
        assert (tmp_path / "config.yaml").exists()
    assert len(metrics_of(tmp_path)) == 1
    error = refused(capsys, "train", "--resume", "--out", tmp_path)
    assert "holds no last.pt; its run ended before it saved one" in error
    assert main(command) == 0
    assert [record["epoch"] for record in metrics_of(tmp_path)] == [0, 1]
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [0, 1]
    assert "already holds a run" in refused(capsys, *command)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_files_that_are_not_of_a_run_are_not_replaced(name, tmp_path, capsys):
    (tmp_path / name).write_text("epochs: 2\n")
    assert "already holds a run" in refused(capsys, *COMMAND, "1", "--out", tmp_path)
    assert (tmp_path / name).read_text() == "epochs: 2\n"
