"""Small training runs: in this process, in another one, and in several under torchrun."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from paths import ROOT, SUPPORT
from training import assert_same

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.training.step import build_step

SCRIPTS = SUPPORT / "scripts"
SMALL = ["train", "--batch-size", "8", "--image-size", "32", "--num-attentions", "4"]


def metrics_of(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl, less the time they took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same_end(found: Path, expected: Path) -> None:
    """Two runs ended alike, bit for bit: figures, weights, centers, optimizer, random numbers."""
    assert metrics_of(found) == metrics_of(expected)
    states = [load_checkpoint(folder / "last.pt") for folder in (found, expected)]
    for state in states:
        del state["config"]
        for share in state["ranks"]:
            share["progress"].pop("seconds")
    assert_same(*states)


def acting_at(number: int, act: Callable[[], None]) -> Callable:
    """A build_step for the training loop whose step calls `act` before its call `number`."""

    def build(*arguments):
        step, taken = build_step(*arguments), []

        def acting(*batch):
            taken.append(batch)
            if len(taken) == number:
                act()
            return step(*batch)

        return acting

    return build


def environment() -> dict[str, str]:
    """Of a process that imports the modules of the tests, on one thread."""
    paths = [str(ROOT), str(SUPPORT), str(SCRIPTS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def start(*arguments: str, script: str = "few_images.py") -> subprocess.Popen:
    """A script of the tests in a process group of its own; its output is to be read."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / script), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        start_new_session=True,
    )  # fmt: skip


def torchrun(
    *arguments: str, processes: int = 2, script: str = "few_images.py", options: tuple = ()
) -> subprocess.CompletedProcess:
    """A script of the tests in several processes of this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *launcher, *options, str(SCRIPTS / script), *arguments],
        capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip


def refused(capsys, *arguments) -> str:
    """Run a mistaken command: status 2 and one line on stderr, which is returned."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("wsdan: error: ")
    return captured.err
