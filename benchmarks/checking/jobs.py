"""Processes of gpu_check: each ends with all that it started, also where gpu_check is killed."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PR_SET_PDEATHSIG = 1  # of sys/prctl.h
LIBC = ctypes.CDLL(None)


@dataclass
class Job:
    """A process, what it printed, and how it ended: None where it did not within its time."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)  # besides this process's own
    status: int | None = None
    text: str = ""
    begun: bool = False

    @property
    def ended(self) -> str:
        if self.status is not None:
            return f"ended with status {self.status}"
        return "not ended in its time" if self.begun else "not begun, no time"


class Clock:
    """The time of the whole check."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def left(self, kept: float = 0.0) -> float:
        """Seconds, less those kept for what follows."""
        return max(0.0, self.end - time.monotonic() - kept)


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of this checkout."""
    return [sys.executable, "-m", name, *arguments]


def run_jobs(
    jobs: Iterable[Job],
    log: Path,
    at_once: int,
    seconds: float,
    ended: Callable[[Job], None] = lambda job: None,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Run them, some at once, and append what each printed to `log` when it ends.

    What has not ended in time is killed, and every process with the group that it leads. `ended`:
    called with each job that was begun as it ends, killed ones too; `tick` every 50 ms.
    """
    end = time.monotonic() + seconds
    waiting, running = list(jobs), []
    try:
        while (waiting or running) and time.monotonic() < end:
            while waiting and len(running) < at_once:
                running.append(_Process(waiting.pop(0)))
            for process in [process for process in running if process.poll() is not None]:
                running.remove(process)
                _end(process, log, ended)
            tick()
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()
        for process in running:
            _end(process, log, ended)
        tick()


class _Process:
    """A job's process, at the head of a process group; it dies with this process."""

    def __init__(self, job: Job):
        job.begun = True
        self.job = job
        self.output = tempfile.TemporaryFile()  # noqa: SIM115, closed at its end
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        environment.pop("TRITON_INTERPRET", None)
        self.popen = subprocess.Popen(
            job.command, cwd=ROOT, env=environment | job.environment, stdout=self.output,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, preexec_fn=_lead_a_group,
        )  # fmt: skip

    def poll(self) -> int | None:
        self.job.status = self.popen.poll()
        return self.job.status

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill what is left of the group, and read what was printed."""
        self.kill()
        self.popen.wait()
        self.output.seek(0)
        self.job.text = self.output.read().decode(errors="replace")
        self.output.close()


def _lead_a_group() -> None:
    # No session of its own: what ends the session of gpu_check must end these too.
    os.setpgid(0, 0)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(process: _Process, log: Path, ended: Callable[[Job], None]) -> None:
    process.end()
    job = process.job
    with log.open("a", encoding="utf-8") as file:
        file.write(f"== {job.name}: {job.ended}\n{job.text}\n")
    ended(job)
