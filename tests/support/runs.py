"""Small training runs: in this process, in another one, and under torchrun."""

import atexit
import itertools
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from pathlib import Path

import torch
from paths import ROOT, SUPPORT
from training import assert_same

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.training.step import build_step

SCRIPTS = SUPPORT / "scripts"
SMALL = ["train", "--batch-size", "8", "--image-size", "32", "--num-attentions", "4", "--no-plots"]


def metrics_of(folder: Path) -> list[dict]:
    """The records of metrics.jsonl, without "seconds"."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same_end(found: Path, expected: Path) -> None:
    """Two runs have the same metrics and the same last.pt, bit for bit, except for times."""
    assert metrics_of(found) == metrics_of(expected)
    states = [load_checkpoint(folder / "last.pt") for folder in (found, expected)]
    for state in states:
        del state["config"]
        for rank in state["ranks"]:
            rank["progress"].pop("seconds")
    assert_same(*states)


def acting_at(number: int, act: Callable[[], None]) -> Callable:
    """A build_step whose training steps call `act` before their call `number`, counted from 1."""
    calls = itertools.count(1)

    def build(*arguments):
        step = build_step(*arguments)

        def acting(*batch, **others):
            if next(calls) == number:
                act()
            return step(*batch, **others)

        return acting

    return build


def environment() -> dict[str, str]:
    """The environment of a process that imports tests/support; one thread."""
    paths = [str(ROOT), str(SUPPORT), str(SCRIPTS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


@cache
def _forkserver() -> BaseContext:
    """A server process that has imported torch and wsdan, and whose forks start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "runs", "wsdan.training.loop"])
    before = dict(os.environ)
    os.environ.update(environment())
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


class Script:
    """A script in a new process of one thread, a fork of the server, and its own process group."""

    def __init__(self, script: str, arguments: tuple[str, ...], variables: dict[str, str]):
        self._outputs = tempfile.TemporaryDirectory()  # the files "stdout" and "stderr"
        values = {**environment(), **variables}
        self.process = _forkserver().Process(
            target=_run_script,
            args=(str(SCRIPTS / script), arguments, values, Path(self._outputs.name)),
        )
        self.process.start()
        self.pid = self.process.pid

    def finish(self, timeout: float = 180) -> subprocess.CompletedProcess:
        """Wait for its end; kill it after `timeout` seconds. A signal's return code is negative."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.join()
        outputs = [Path(self._outputs.name, name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess([], self.process.exitcode, *outputs)


def _run_script(path: str, arguments: tuple, variables: dict, outputs: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is ignored where the tests run under nohup
    for descriptor, name in enumerate(("stdout", "stderr"), start=1):
        os.dup2(os.open(outputs / name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(variables)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # the default, not that of this process
    sys.path.insert(0, str(SCRIPTS))
    sys.argv = [path, *arguments]
    try:
        runpy.run_path(path, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # as a program does at its end; multiprocessing does not


def start(*arguments: str, script: str = "few_images.py", **variables: str) -> Script:
    """Start a script; `variables` are added to its environment."""
    return Script(script, arguments, variables)


def finished(*arguments: str, script: str = "few_images.py") -> subprocess.CompletedProcess:
    """Run a script to its end, in a process of its own."""
    return start(*arguments, script=script).finish()


def ranks(
    *arguments: str, processes: int = 2, script: str = "few_images.py", **variables: str
) -> subprocess.CompletedProcess:
    """Run a script in several ranks as torchrun does, but without its restarts and sooner.

    A rank that fails ends the others. Returns the joined outputs of all ranks, and the first return
    code that is not 0.
    """
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    variables = {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(processes),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", **variables,
    }  # fmt: skip
    group = [
        start(*arguments, script=script, **variables, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(processes)
    ]
    running, failed = {item.process.sentinel: item for item in group}, False
    while running and not failed:
        ended = [running.pop(sentinel) for sentinel in wait(list(running), timeout=120)]
        failed = not ended or any(item.process.exitcode != 0 for item in ended)
    done = [item.finish(timeout=10) for item in group]
    code = next((item.returncode for item in done if item.returncode != 0), 0)
    return subprocess.CompletedProcess(
        [], code, "".join(item.stdout for item in done), "".join(item.stderr for item in done)
    )


def in_fork(function: Callable[[], object]) -> int:
    """Call the function in a fork of this process, for a minute at most.

    Returns the exit code: 0, 1 after an exception, negative for a signal.
    """
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def torchrun(
    *arguments: str, processes: int = 2, script: str = "few_images.py", options: tuple = ()
) -> subprocess.CompletedProcess:
    """Run a script in several processes on this machine, by torchrun itself: see also `ranks`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *launcher, *options, str(SCRIPTS / script), *arguments],
        capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip


def refused(capsys, *arguments) -> str:
    """Run a command that must fail with status 2 and one line on stderr, which is returned."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("wsdan: error: ")
    return captured.err
