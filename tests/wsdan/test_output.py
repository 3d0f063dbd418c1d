"""stdout that nobody reads, that is full or that is closed: it ends no run, and is no traceback."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from runs import SMALL, environment, in_fork

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.data import loaders

RUN = [*SMALL, "--log-images", "0", "--epochs", "2", "--eval-every", "2"]


def broken(how: str) -> int | None:
    """A descriptor that takes no text; None is a closed one."""
    if how == "closed":
        return None
    if how == "full":
        return os.open("/dev/full", os.O_WRONLY)
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def status_of(arguments: list[str], stdout: int | None, stderr: int | None) -> int:
    """The exit status of the command in a fork with these descriptors."""

    def run():
        streams = []
        for number, descriptor in ((1, stdout), (2, stderr)):
            os.close(number) if descriptor is None else os.dup2(descriptor, number)
            streams.append(None if descriptor is None else os.fdopen(number, "w"))
        sys.stdout, sys.stderr = streams
        status = main(arguments)
        sys.stdout.flush()  # as Python does at its end
        sys.stderr.flush()
        os._exit(status)

    return in_fork(run)


@pytest.mark.parametrize("how", ["pipe", "full", "closed"])
def test_a_run_needs_no_reader(how, tmp_path, monkeypatch):
    """From its opening line on; what it saves is whole."""
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)
    assert status_of([*RUN, "--out", str(tmp_path)], broken(how), broken(how)) == 0
    assert load_checkpoint(tmp_path / "last.pt")["ranks"][0]["progress"]["epoch"] == 2
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]


def test_an_epoch_is_saved_before_it_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)
    epochs = []

    def saved_epochs(_logger, record):
        progress = load_checkpoint(tmp_path / "last.pt")["ranks"][0]["progress"]
        epochs.append((record["epoch"], progress["epoch"]))

    monkeypatch.setattr("wsdan.training.logging.RunLogger._line", saved_epochs)
    assert main([*RUN, "--out", str(tmp_path)]) == 0
    assert epochs == [(0, 1), (1, 2)]


@pytest.mark.parametrize("command", [["--help"], ["train", "--help"], ["--version"], ["info"]])
@pytest.mark.parametrize(("how", "status"), [("pipe", 141), ("full", 2), ("closed", 0)])
def test_other_commands_end_with_a_status(command, how, status):
    """No traceback, and no word of Python about a stream that it cannot flush."""
    reading, writing = os.pipe()
    assert status_of(command, broken(how), writing) == status
    os.close(writing)
    with open(reading) as errors:
        text = errors.read()
    full = "wsdan: error: stdout cannot be written: No space left on device\n"
    assert text == (full if how == "full" else "")


@pytest.mark.parametrize("how", ["pipe", "full", "closed"])
def test_a_mistake_that_cannot_be_told_is_a_status(how):
    assert status_of(["fly"], broken(how), broken(how)) == 2


def calls_print(path: Path) -> bool:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    calls = (node.func for node in nodes if isinstance(node, ast.Call))
    return any(isinstance(function, ast.Name) and function.id == "print" for function in calls)


def test_below_the_command_line_nothing_calls_print():
    """It raises where nobody reads, and would end a run."""
    found = {path for path in (ROOT / "wsdan").rglob("*.py") if calls_print(path)}
    names = {path.name for path in found if path.parent.name != "commands"}
    assert names <= {"cli.py", "parser.py", "output.py"}


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_gets_no_file_of_the_program(redirection):
    """The next file that a program opens would take its descriptor, and with it the messages."""
    code = (
        "import os, sys, wsdan.cli\n"
        "status = wsdan.cli.main(['fly'])\n"
        "sys.exit(status if os.open(os.devnull, os.O_RDONLY) > 2 else 1)\n"
    )
    command = ["sh", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, code]
    assert subprocess.run(command, capture_output=True, env=environment()).returncode == 2
