"""Starts a run again and again, and kills it at a random moment each time.

Arguments: the run's folder, how often it is killed, then those of `wsdan`. Each run is a fork of
this process, which has imported all and used no thread, so that most of its life is training.
Prints a line for each: what last.pt then held.
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

LONGEST = 1.5  # seconds until a run is killed; on a slow machine twice as long, until one saves


def run_and_kill(command: list[str], last: Path, seconds: float) -> str:
    """Fork, run, kill; returns what last.pt holds. It must be whole, or not be there."""
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
