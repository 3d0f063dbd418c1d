"""What an NVIDIA GPU can prove of this package, within eight minutes and without a network.

python -m benchmarks.gpu_check [--no-build]: builds the package, runs all tests on the GPU, measures
the works of gpu_rows.py against the targets, writes benchmarks/results/<gpu>-<date>.json and ends
with a short table. compute-sanitizer, where there is one, watches every kernel beside the tests.
Exit status 0: built, all tests passed, every operator ran, nothing was found in it; 2: no GPU.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from harness import gpu_rows, report, run, sanitized

ROOT = Path(__file__).parent.parent
sys.path.insert(1, str(ROOT))
import cuda_build  # noqa: E402

SECONDS = 475  # for everything
BUILD_SECONDS = 150  # at most
MEASURE_SECONDS = 210  # kept for the measurements when the tests begin
END_SECONDS = 5  # kept for the report
LEAST_SECONDS = 20  # with less, no further process measures
SLICES = 8  # of test_triton.py, which compiles hundreds of kernels
MOST_LINES = 60  # of the report with what is printed before it
LINES_BEFORE = 5
SPLIT = "tests/gpu/test_triton.py"
SLOW = ("tests/gpu/test_triton_compiled.py", "tests/gpu/test_cuda_compiled.py")
# Files whose tests show what only a GPU can: those that are skipped are named in the report.
ON_GPU = ("triton", "cuda", "cuda_graph", "golden")
OUTCOME = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")


@dataclass
class Job:
    """A process, its log, and how it ended: None where it did not within its time."""

    name: str
    command: list[str]
    log: Path
    status: int | None = None
    environment: dict[str, str] = field(default_factory=dict)  # besides this process's own


@dataclass
class Outcome:
    """What a run of the check found."""

    built: str = "not asked for"
    build_ok: bool = True
    tests: Counter = field(default_factory=Counter)
    test_problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # of ON_GPU
    sanitized: list[str] = field(default_factory=list)
    machine: dict = field(default_factory=dict)
    works: list[dict] = field(default_factory=list)  # as gpu_measure emits them
    failed: dict[str, str] = field(default_factory=dict)  # group -> why
    left_out: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        tested = self.tests["passed"] > 0 and not self.test_problems
        return self.build_ok and tested and not self.failed and not self.left_out


class Clock:
    """The time of the whole check."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def left(self, kept: float = 0.0) -> float:
        """Seconds, less those kept for what follows."""
        return max(0.0, self.end - time.monotonic() - kept)


def run_jobs(jobs: list[Job], at_once: int, seconds: float) -> None:
    """Run them, some at once; what has not ended in time is killed with all it started."""
    end = time.monotonic() + seconds
    waiting, running = list(jobs), {}
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    try:
        while (waiting or running) and time.monotonic() < end:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                with open(job.log, "w", encoding="utf-8") as log:
                    running[job.name] = job, subprocess.Popen(
                        job.command, cwd=ROOT, env=environment | job.environment, stdout=log,
                        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                    )  # fmt: skip
            for name, (job, process) in list(running.items()):
                job.status = process.poll()
                if job.status is not None:
                    del running[name]
            time.sleep(0.05)
    finally:
        for _, process in running.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def build(logs: Path, seconds: float, outcome: Outcome) -> None:
    """Install the checkout with the machine's own torch and compilers, for this GPU alone."""
    archs = os.environ.get("WSDAN_CUDA_ARCHS", str(capability_among(cuda_build.ARCHS)))
    arguments = ["install", "--no-build-isolation", "--no-deps", "-e", "."]
    job = Job("build", [sys.executable, "-m", "pip", *arguments], logs / "build.log")
    job.environment["WSDAN_CUDA_ARCHS"] = archs
    run_jobs([job], 1, seconds)
    outcome.build_ok = job.status == 0
    outcome.built = "ok" if outcome.build_ok else f"{_ended(job)}, see {job.log}"


def test_jobs(logs: Path) -> list[Job]:
    """Every test file in a process of its own, the longest first, SPLIT in slices."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    slow = [name for name in SLOW if name in files]
    plain = [name for name in files if name not in (SPLIT, *SLOW)]
    slices = [f"{i}/{SLICES}" for i in range(SLICES)]
    runs = [(name, "0/1") for name in slow] + [(SPLIT, part) for part in slices]
    jobs = []
    for name, part in runs + [(name, "0/1") for name in plain]:
        pytest = [
            sys.executable,
            "-m",
            "pytest",
            "-rfEs",
            "-p",
            "no:cacheprovider",
            "-p",
            "benchmarks.harness.shard",
        ]
        title = name if part == "0/1" else f"{name} {part}"
        log = logs / f"{Path(name).stem}-{part[0]}.log"
        jobs.append(Job(title, [*pytest, "--shard", part, name], log))
    return jobs


def capability_among(known: tuple[int, ...]) -> int:
    """The newest of these capabilities (90 is 9.0) whose machine code this GPU runs."""
    major, minor = torch.cuda.get_device_capability()
    return max((item for item in known if item <= 10 * major + minor), default=min(known))


def report_job(logs: Path) -> Job:
    """Triton's compiler's report for this GPU, into the logs."""
    command = [sys.executable, "tests/gpu/triton_report.py", "--capability"]
    capability = str(capability_among((80, 90, 100)))
    return Job("the compiler's report", [*command, capability], logs / "triton_report.log")


def sanitizer_jobs(logs: Path) -> list[Job]:
    """compute-sanitizer's tools over every kernel; none where the machine has no such program."""
    program = sanitized.program()
    if program is None:
        return []
    return [
        Job(tool, sanitized.command(program, tool), logs / f"{tool}.log")
        for tool in sanitized.TOOLS
    ]


def test(
    jobs: list[Job], sanitizers: list[Job], extra: Job, seconds: float, outcome: Outcome
) -> None:
    """Run the tests, and beside them the sanitizers and `extra`, which decides nothing."""
    at_once = max(2, min(SLICES, (os.cpu_count() or 1) // 2))
    run_jobs([*sanitizers, extra, *jobs], at_once, seconds)
    if extra.status != 0:
        print(f"{extra.name}: {_ended(extra)}, see {extra.log}")
    for job in jobs:
        counts, problems = read_test_log(job)
        outcome.tests.update(counts)
        outcome.test_problems += problems
        outcome.skipped += skipped_on_gpu(job)
    for job in sanitizers:
        text = job.log.read_text(encoding="utf-8", errors="replace") if job.log.exists() else ""
        clean, found = sanitized.verdict(job.status, text)
        outcome.sanitized.append(f"compute-sanitizer {job.name}: {found}")
        if not clean:
            outcome.test_problems.append(f"compute-sanitizer {job.name}: {found}, see {job.log}")
    if not sanitizers:
        where = "CUDA_HOME/bin, PATH or /usr/local/cuda/bin"
        outcome.sanitized.append(f"compute-sanitizer: none in {where}; nothing was watched")


def skipped_on_gpu(job: Job) -> list[str]:
    """pytest's lines on skipped tests, where the file is of ON_GPU."""
    if not job.log.exists() or Path(job.command[-1]).stem.removeprefix("test_") not in ON_GPU:
        return []
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line.startswith("SKIPPED ")]


def read_test_log(job: Job) -> tuple[Counter, list[str]]:
    """What pytest counted, and one line for each failure."""
    if not job.log.exists():
        return Counter(), [f"{job.name}: not begun, no time"]
    text = job.log.read_text(encoding="utf-8", errors="replace")
    lines = text.strip().splitlines()
    counts = Counter()
    for number, kind in OUTCOME.findall(lines[-1] if lines else ""):
        counts[kind.replace("errors", "error")] += int(number)
    problems = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    if job.status != 0 and not problems:
        problems = [f"{job.name}: {_ended(job)}, see {job.log}"]
    return counts, problems


def measure(logs: Path, clock: Clock, outcome: Outcome) -> None:
    """Measure every group; a process that ends early is followed by one for the others."""
    pending, number = gpu_rows.groups(), 0
    while pending and clock.left(END_SECONDS) > LEAST_SECONDS:
        out = logs / f"measure-{number}.jsonl"
        out.write_text("", encoding="utf-8")
        seconds = clock.left(END_SECONDS)
        options = ["--out", str(out), "--seconds", f"{seconds:.0f}", *pending]
        command = [sys.executable, "-m", "benchmarks.harness.gpu_measure", *options]
        job = Job("measure", command, logs / f"measure-{number}.log")
        run_jobs([job], 1, seconds)
        finished = read_measured(out.read_text(encoding="utf-8"), outcome)
        pending = [group for group in pending if group not in finished]
        if job.status is None:
            break
        if pending and not finished & outcome.failed.keys():
            outcome.failed[pending.pop(0)] = f"{_ended(job)}, see {job.log}"
        number += 1
    outcome.left_out += [f"{group}: no time" for group in pending]


def read_measured(text: str, outcome: Outcome) -> set[str]:
    """Add what gpu_measure wrote; the groups that are through, failed or not."""
    finished = set()
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except json.JSONDecodeError:  # of a process that was killed as it wrote
            continue
        if "machine" in content:
            outcome.machine = content["machine"]
        elif "rows" in content:
            outcome.works.append(content)
        else:
            finished.add(content.get("done") or content["failed"])
            if "failed" in content:
                outcome.failed[content["failed"]] = content["error"]
    return finished


def summary(outcome: Outcome, written: str) -> list[str]:
    """The report; what does not fit is cut from the table."""
    facts = outcome.machine
    head = [report.machine_text(facts) if facts else "the machine was not measured"]
    head.append(f"build: {outcome.built}")
    counts = ", ".join(f"{number} {kind}" for kind, number in sorted(outcome.tests.items()))
    head.append(f"tests: {counts or 'none ran'}")
    head += _some(sorted(set(outcome.test_problems)), 6)
    files = ", ".join(f"test_{name}.py" for name in ON_GPU)
    head.append(f"skipped in {files}: {len(outcome.skipped) or 'nothing'}")
    head += [*_some(outcome.skipped, 3), *outcome.sanitized, gpu_rows.HEADER]
    table, found = [], []
    for work in outcome.works:
        rows = [report.Row(**row) for row in work["rows"]]
        targets = [gpu_rows.Check(**check) for check in work["checks"]]
        table.append(gpu_rows.line(rows, targets))
        found += targets
    met = sum(check.passed is True for check in found)
    tail = [f"targets: {met} of {len(found)} met (+ met, - missed, ? not measured)"]
    missed = [check for check in found if check.passed is False]
    tail += _some([f"missed: {c.title}: {c.target}: {c.found}" for c in missed], 12)
    tail += _some([f"failed: {group}: {why}" for group, why in outcome.failed.items()], 5)
    tail += _some([f"left out: {text}" for text in outcome.left_out], 4)
    tail += _some([f"{w['group']}: {note}" for w in outcome.works for note in w["notes"]], 3)
    tail.append(f"figures: {written}")
    tail.append("passed" if outcome.passed else "FAILED: build, tests or an operator, see above")
    room = MOST_LINES - LINES_BEFORE - len(head) - len(tail)
    if len(table) > room:
        table = [*table[: room - 1], f"... and {len(table) - room + 1} more works"]
    return [*head, *table, *tail]


def write(outcome: Outcome, folder: Path) -> str:
    """The figures as bap_bench's --json has them, with tests and targets beside them."""
    facts = outcome.machine or report.machine("cuda")
    name = re.sub(r"[^a-z0-9]+", "-", str(facts["device"]).lower()).strip("-")
    path = folder / f"{name}-{facts['date'][:10]}.json"
    content = {
        **facts, "built": outcome.built, "tests": dict(outcome.tests),
        "test_problems": outcome.test_problems, "failed": outcome.failed,
        "skipped": outcome.skipped, "sanitized": outcome.sanitized,
        "left_out": outcome.left_out,
        "rows": [row for work in outcome.works for row in work["rows"]],
        "targets": [check for work in outcome.works for check in work["checks"]],
        "notes": [note for work in outcome.works for note in work["notes"]],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return str(path)


def _ended(job: Job) -> str:
    return "not ended in its time" if job.status is None else f"ended with status {job.status}"


def _some(lines: list[str], most: int) -> list[str]:
    """The first of them, each cut to a terminal's width."""
    more = [] if len(lines) <= most else [f"  ... and {len(lines) - most + 1} more"]
    kept = lines if not more else lines[: most - 1]
    return [f"  {line[:140]}" for line in kept] + more


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-build", action="store_true", help="take the package as it is")
    parser.add_argument("--logs", type=Path, default=ROOT / "build" / "gpu-check", metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results", metavar="DIR")
    options = parser.parse_args(arguments)
    if reason := run.use("cuda"):
        print(f"gpu-check: {reason}")
        return 2
    clock, outcome = Clock(SECONDS), Outcome()
    options.logs.mkdir(parents=True, exist_ok=True)
    for old in (*options.logs.glob("*.log"), *options.logs.glob("*.jsonl")):
        old.unlink()
    if not options.no_build:
        print(f"building; logs in {options.logs}", flush=True)
        build(options.logs, min(BUILD_SECONDS, clock.left(MEASURE_SECONDS)), outcome)
    print("testing", flush=True)
    jobs, extra = test_jobs(options.logs), report_job(options.logs)
    sanitizers = sanitizer_jobs(options.logs)
    test(jobs, sanitizers, extra, clock.left(MEASURE_SECONDS), outcome)
    print("measuring", flush=True)
    measure(options.logs, clock, outcome)
    print("\n".join(summary(outcome, write(outcome, options.results))))
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
