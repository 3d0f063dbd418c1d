"""Starts a run repeatedly, and kills it at a random time.

Arguments: the run's folder, the number of kills, then those of `wsdan`. Each run is a fork of this
process, which has imported everything and started no thread, so that a run spends its time on
training. Prints a line for each run: what last.pt then held.
"""

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

from few_images import draw_few

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main

LONGEST = 1.5  # seconds until a run is killed; doubled until a run has saved once


def run_and_kill(command: list[str], last: Path, seconds: float) -> str:
    """Fork, run, kill. Returns what last.pt holds; it must be complete, or not exist."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            os._exit(main([*command, "--resume" if last.exists() else "--overwrite"]))
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return f"ended with {os.WEXITSTATUS(status)}"
    if not last.exists():
        return "nothing"
    progress = load_checkpoint(last)["ranks"][0]["progress"]
    return f"epoch {progress['epoch']}, {progress['seen']} images"


if __name__ == "__main__":
    draw_few()
    folder, times, command = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    moments, longest = random.Random(0), LONGEST
    for _ in range(times):
        held = run_and_kill(command, folder / "last.pt", moments.uniform(0.0, longest))
        if held == "nothing":
            longest *= 2
        print(held, flush=True)
