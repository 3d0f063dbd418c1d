"""Random cases of every C++ operator against the reference.

python tests/support/fuzz.py --cases 10000 [--processes 2] [--seconds 300] [--log FILE]

Each case has a seed of its own; a failure prints the command that repeats it, a crash too. With
--log FILE a run that was stopped goes on where it was. The exit status is 1 if a case failed.
"""

import argparse
import dataclasses
import faulthandler
import hashlib
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path

import fuzzers
import torch

import wsdan_kernels
from wsdan_kernels import backends

UNAVAILABLE = backends.available()["cpu"]  # loads the library
BLOCK = 100  # seeds that a process takes at once
AGAIN = "again: python tests/support/fuzz.py --seed {} --cases 1"
FORK = multiprocessing.get_context("fork")  # the parent runs no operator, so has no threads


@dataclass
class Log:
    """What has been run: `next` is the first seed of which nothing is known.

    of: the build and the cases. done: first seeds of blocks beyond `next`. counts, errors: by
    operator, the cases and the worst error as a share of the tolerance. failed: seed, operator and
    what is wrong.
    """

    of: str
    first: int
    next: int
    done: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, first: int, outcomes: dict[int, tuple[str, float | str]]) -> None:
        """The outcomes of a block by seed."""
        for seed, (op, outcome) in sorted(outcomes.items()):
            self.counts[op] = self.counts.get(op, 0) + 1
            if isinstance(outcome, str):
                self.failed.append((seed, op, outcome))
            else:
                self.errors[op] = max(self.errors.get(op, 0.0), outcome)
        self.done = sorted([*self.done, first])
        while self.done and self.done[0] == self.next:
            self.next = self.done.pop(0) + BLOCK

    def write(self, path: Path) -> None:
        new = path.with_suffix(".new")
        new.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")
        new.replace(path)

    def summary(self) -> str:
        lines = [
            f"{op:26} {count:7} cases, worst error {self.errors.get(op, 0.0):6.3f} of the "
            f"tolerance, {sum(name == op for _, name, _ in self.failed)} failed"
            for op, count in sorted(self.counts.items())
        ]
        lines += [failure_text(*item) for item in sorted(self.failed)]
        total = sum(self.counts.values())
        rate = total / max(self.seconds, 1e-9)
        return "\n".join(
            [*lines, f"{total} cases, {len(self.failed)} failed, {rate:.0f} cases a second"]
        )


def failure_text(seed: int, op: str, what: str) -> str:
    return f"FAIL {op}: {what}; {AGAIN.format(seed)}"


def build_digest() -> str:
    """Of the operators' code and libraries, and of the cases: their outcomes belong together."""
    package, here = Path(wsdan_kernels.__file__).parent, Path(__file__).parent
    files = [path for kind in ("*.py", "*.so") for path in sorted(package.rglob(kind))]
    total = hashlib.sha256(torch.__version__.encode())
    for path in [*files, here / "fuzzers.py", here / "parity.py"]:
        total.update(path.read_bytes())
    return total.hexdigest()


def open_log(path: Path | None, seed: int) -> Log:
    """The log of a run from this seed on: that of the file, where there is one."""
    new = Log(build_digest(), seed, seed)
    if path is None or not path.exists():
        return new
    log = Log(**json.loads(path.read_text(encoding="utf-8")))
    log.failed = [tuple(item) for item in log.failed]
    if (log.of, log.first) != (new.of, new.first):
        sys.exit(f"{path} is of another build, other cases or another --seed")
    return log


def blocks(log: Log, end: int) -> Iterator[tuple[int, int]]:
    """The blocks up to seed `end` that are left to run: first seed, first seed of the next."""
    done = set(log.done)
    for first in range(log.next, end, BLOCK):
        if first not in done:
            yield first, min(first + BLOCK, end)


class Worker:
    """A process that runs the cases of a block; the others go on if it crashes."""

    def __init__(self, first: int, end: int):
        self.first, self.end = first, end
        self.outcomes: dict[int, tuple[str, float | str]] = {}
        self.start(first)

    def start(self, seed: int) -> None:
        self.inlet, outlet = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=run_block, args=(seed, self.end, outlet), daemon=True)
        self.process.start()
        outlet.close()

    def receive(self) -> bool:
        """Take what has come. Returns whether the block is done."""
        try:
            while self.inlet.poll():
                seed, *outcome = self.inlet.recv()
                self.outcomes[seed] = tuple(outcome)
        except EOFError:
            self.process.join()
            left = [seed for seed in range(self.first, self.end) if seed not in self.outcomes]
            if not left:
                return True
            self.outcomes[left[0]] = "crash", f"exit status {self.process.exitcode}"
            if left[1:]:
                self.start(left[1])
            return not left[1:]
        return False


def run_block(first: int, end: int, outlet: connection.Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    for seed in range(first, end):
        outlet.send((seed, *fuzzers.run_case(seed)))


def run_cases(log: Log, end: int, processes: int, seconds: float, path: Path | None) -> None:
    """Run what is left up to seed `end` or for so many seconds; prints each failure."""
    left, workers = blocks(log, end), []
    start, before = time.monotonic(), log.seconds
    try:
        while True:
            in_time = time.monotonic() - start < seconds
            while in_time and len(workers) < processes and (block := next(left, None)):
                workers.append(Worker(*block))
            if not workers:
                return
            connection.wait([worker.inlet for worker in workers])
            done = [worker for worker in workers if worker.receive()]
            workers = [worker for worker in workers if worker not in done]
            log.seconds = before + time.monotonic() - start
            for worker in done:
                failures = len(log.failed)
                log.add(worker.first, worker.outcomes)
                for item in log.failed[failures:]:
                    print(failure_text(*item), flush=True)
                if path is not None:
                    log.write(path)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        for worker in workers:
            worker.process.terminate()


def trace(first: int, end: int) -> Iterator[tuple[int, tuple[str, float | str]]]:
    """The outcomes of cases that are run in this process, each named before it runs."""
    for seed in range(first, end):
        print(f"seed {seed}", flush=True)
        yield seed, fuzzers.run_case(seed)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no case later")
    parser.add_argument("--log", type=Path, metavar="FILE", help="to go on with a stopped run")
    parser.add_argument("--trace", action="store_true", help="in this process, naming each case")
    options = parser.parse_args(arguments)
    if options.log is not None and options.cases % BLOCK:
        parser.error(f"--log: --cases must be a multiple of {BLOCK}, got {options.cases}")
    if UNAVAILABLE is not None:
        sys.exit(f"nothing to compare: {UNAVAILABLE}")
    log, end = open_log(options.log, options.seed), options.seed + options.cases
    if options.trace:
        log.add(options.seed, dict(trace(options.seed, end)))
    else:
        run_cases(log, end, options.processes, options.seconds, options.log)
    print(log.summary())
    return 1 if log.failed else 0


if __name__ == "__main__":
    faulthandler.enable()
    raise SystemExit(main())
