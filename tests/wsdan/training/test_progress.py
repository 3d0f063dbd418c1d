"""What a run shows of an epoch: lines without a terminal, a bar on one."""

import io
import re
import sys
from functools import partial

import pytest
import torch
from runs import SMALL
from tqdm import tqdm

import wsdan.training.run
from wsdan.cli import main
from wsdan.data import loaders
from wsdan.training import progress
from wsdan.training.progress import EpochProgress
from wsdan.training.skips import CHECK_EVERY, Skips
from wsdan.training.state import Progress

COMMAND = [*SMALL, "--log-images", "0", "--epochs", "2", "--eval-every", "2", "--out"]


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 24)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)


def set_clock(monkeypatch, seconds: float) -> None:
    """Stop the clock; each training step moves it on."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    build_step = wsdan.training.run.build_step

    def build(*arguments):
        step = build_step(*arguments)

        def slow(*batch):
            now[0] += seconds
            return step(*batch)

        return slow

    monkeypatch.setattr(wsdan.training.run, "build_step", build)


def test_a_line_every_half_minute_without_a_terminal(few_images, tmp_path, monkeypatch, capsys):
    """With three steps of 16 s in an epoch: after the second of each."""
    set_clock(monkeypatch, 16)
    assert main([*COMMAND, str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " step " in line]
    pattern = r"epoch (\d)/2, step 2/3: 0\.5 images/s, loss \d+\.\d{3}, ETA 0:00:16"
    assert [re.fullmatch(pattern, line)[1] for line in lines] == ["1", "2"]


def test_no_line_in_a_short_epoch(few_images, tmp_path, monkeypatch, capsys):
    set_clock(monkeypatch, 9.9)
    assert main([*COMMAND, str(tmp_path)]) == 0
    assert " step " not in capsys.readouterr().out


def test_a_terminal_shows_a_bar_with_images_per_second(few_images, tmp_path, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    set_clock(monkeypatch, 60)
    monkeypatch.setattr(progress, "tqdm", partial(tqdm, mininterval=0, miniters=1))
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main([*COMMAND, str(tmp_path)]) == 0
    assert " step " not in capsys.readouterr().out
    shown = terminal.getvalue()
    assert re.search(r"epoch 1/2: .*\b8/24 \[.*images/s.*, loss \d+\.\d{3}, accuracy ", shown), (
        shown
    )


class Guarded:
    """A total that must not be read."""

    def __float__(self):
        raise AssertionError("read from the device")

    __int__ = __float__


def test_a_line_waits_for_no_device(monkeypatch, capsys):
    """It is printed in a step in which another value has been read, and reads none before."""
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    shown = EpochProgress([], "epoch 1/1", first=0, total=4, step_size=8)
    names = ("loss", "finite", "correct", "images")
    shown.end_step(Progress(steps=1, totals=dict.fromkeys(names, Guarded())), free=False)
    assert capsys.readouterr().out == ""
    shown.end_step(Progress(steps=2, totals=dict.fromkeys(names, 2)), free=True)
    assert "step 2/4" in capsys.readouterr().out


def test_only_the_first_process_prints_lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    monkeypatch.setattr(progress, "is_main", lambda: False)
    shown = EpochProgress([], "epoch 1/1", first=0, total=4, step_size=8)
    shown.end_step(Progress(steps=1, totals={}), free=True)
    assert capsys.readouterr().out == ""


def test_the_skips_say_when_they_were_read():
    skips = Skips(limit=3)
    read = [skips.add(torch.tensor(1), []) for _ in range(2 * CHECK_EVERY)]
    assert [number for number, was in enumerate(read, start=1) if was] == [10, 20]
