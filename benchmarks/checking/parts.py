"""The parts of gpu_check, each a function of its folder, its clock and its options.

A part says first what it wants to find out, then writes each thing as soon as it is known.
"""

import argparse
import os
import re
import sys
from collections import Counter
from pathlib import Path

import torch
from checking import figures
from checking.jobs import ROOT, Clock, Job, module, run_jobs
from harness import gpu_rows, report, sanitized

sys.path.insert(1, str(ROOT))
import native_build.cuda as cuda_build

BUILD_SECONDS = 180  # at most
SMOKE_SECONDS = 60
PROBE_SECONDS = 90  # of a compute-sanitizer that can watch nothing here
KEPT_SECONDS = {"tests": 150, "sanitize": 100}  # for parts that follow in the same call
END_SECONDS = 5  # kept for the report
LEAST_SECONDS = 25  # with less, no further process measures: torch alone takes ten to load
AT_ONCE = 8  # processes with a GPU context, where there are so many pairs of processors
SLICES = 8  # of test_triton.py, which compiles hundreds of kernels
SPLIT = "tests/gpu/test_triton.py"
# Files whose tests run on the GPU, the longest first; CI runs all others, which need none.
ON_GPU = (
    SPLIT,
    "tests/benchmarks/test_gpu_rows.py",
    "tests/gpu/test_cuda_graph.py",
    "tests/gpu/test_cuda.py",
    "tests/gpu/test_triton_split.py",
    "tests/gpu/test_other_gpu.py",
    "tests/benchmarks/test_sanitized.py",
    "tests/benchmarks/test_gpu_benchmarks.py",
    "tests/kernels/test_golden.py",
)
OUTCOME = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")
# Lines of pytest -vv, by which the tests of a file that was killed are counted.
VERBOSE = re.compile(r"^(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)


class Check:
    """What the parts share: the folder of all they write, the time, the options."""

    def __init__(self, folder: Path, clock: Clock, options: argparse.Namespace):
        self.folder, self.clock, self.options = folder, clock, options
        self.writer = figures.Writer(folder)
        self.shown: set[tuple[str, ...]] = set()

    def left(self, part: str) -> float:
        """Seconds for this part, less those kept for what follows it."""
        later = figures.PARTS[figures.PARTS.index(part) + 1 :]
        kept = [KEPT_SECONDS.get(name, 0) for name in later if name in self.options.only]
        return self.clock.left(END_SECONDS + sum(kept))

    def log(self, part: str) -> Path:
        return self.folder / f"{part}.log"

    def found(self) -> figures.Figures:
        return figures.read(self.folder)

    def show_works(self) -> None:
        """Print the works that were measured since the last call."""
        works = self.found().works
        for key in [key for key in works if key not in self.shown]:
            self.shown.add(key)
            print(work_line(works[key]), flush=True)


def work_line(work: dict) -> str:
    rows = [report.Row(**row) for row in work["rows"]]
    return gpu_rows.line(rows, [gpu_rows.Check(**check) for check in work["checks"]])


def build(check: Check) -> None:
    """Compile both libraries into the checkout with the machine's own torch, for this GPU alone."""
    job = Job("build", module("benchmarks.checking.build"))
    archs = os.environ.get("WSDAN_CUDA_ARCHS", str(capability_among(cuda_build.ARCHS)))
    job.environment = {"WSDAN_CUDA_ARCHS": archs, "WSDAN_CUDA": "1"}
    check.writer.begin("build", [job.name])
    run_jobs([job], check.log("build"), 1, min(BUILD_SECONDS, check.left("build")))
    text = job.ended if job.status else f"for {archs}"
    check.writer.end("build", job.name, job.status == 0, f"{text}, in build.log")


def capability_among(known: tuple[int, ...]) -> int:
    """The newest of these capabilities (90 is 9.0) whose machine code this GPU runs."""
    major, minor = torch.cuda.get_device_capability()
    return max((item for item in known if item <= 10 * major + minor), default=min(known))


def smoke(check: Check) -> None:
    """Every kernel once, a process for each operator: a fault ends one."""
    jobs = [Job(op, module("benchmarks.harness.sanitized", op)) for op in sanitized.operators()]
    check.writer.begin("smoke", [job.name for job in jobs])

    def ended(job: Job) -> None:
        lines = job.text.strip().splitlines()
        ran = job.status == 0 and sanitized.DONE in job.text
        found = lines[-1].partition(sanitized.DONE)[2] if ran else f"{job.ended}: {last_of(lines)}"
        check.writer.end("smoke", job.name, ran, found)

    seconds = min(SMOKE_SECONDS, check.left("smoke"))
    run_jobs(jobs, check.log("smoke"), at_once(), seconds, ended)


def measure(check: Check) -> None:
    """Measure every group; a process that ends early is followed by one for the others."""
    pending = [group for group in gpu_rows.groups() if check.options.rows in group]
    check.writer.begin("measure", pending)
    while pending and (seconds := check.left("measure")) > LEAST_SECONDS:
        options = ["--out", str(check.folder), "--seconds", f"{seconds - 1:.0f}", *pending]
        job = Job("measure", module("benchmarks.harness.gpu_measure", *options))
        run_jobs([job], check.log("measure"), 1, seconds, tick=check.show_works)
        found = check.found()
        left = [group for group in pending if group not in found.done | found.failed.keys()]
        if job.status in (0, None):
            break
        if left and len(found.failed.keys() & set(pending)) == 0:
            check.writer.write(
                {"failed": left.pop(0), "error": f"{job.ended}: {last_of(job.text)}"}
            )
        pending = left


def tests(check: Check) -> None:
    """The tests that run on a GPU, each file in a process of its own."""
    jobs = test_jobs()
    check.writer.begin("tests", [job.name for job in jobs])

    def ended(job: Job) -> None:
        counts, problems = counted(job)
        ok = job.status == 0 and not problems
        text = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
        check.writer.end(
            "tests", job.name, ok, text or job.ended, counts=counts, problems=problems,
            skipped=[line for line in job.text.splitlines() if line.startswith("SKIPPED ")],
        )  # fmt: skip

    run_jobs(jobs, check.log("tests"), at_once(), check.left("tests"), ended)


def test_jobs() -> list[Job]:
    """Every file of ON_GPU, SPLIT in slices."""
    jobs = []
    for path in ON_GPU:
        count = SLICES if path == SPLIT else 1
        for i in range(count):
            arguments = ["-rfEs", "-vv", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=100"]
            arguments += ["-p", "benchmarks.harness.shard", "--shard", f"{i}/{count}", path]
            title = path if count == 1 else f"{path} {i}/{count}"
            jobs.append(Job(title, module("pytest", *arguments)))
    return jobs


def counted(job: Job) -> tuple[Counter, list[str]]:
    """What pytest counted, and one line for each failure; of a killed process, what it printed."""
    lines = job.text.strip().splitlines()
    problems = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    counts = Counter()
    for number, kind in OUTCOME.findall(lines[-1] if lines else ""):
        counts[kind.replace("errors", "error")] += int(number)
    if not counts:
        outcomes = VERBOSE.findall(job.text)
        counts.update(kind.lower() for _, kind in outcomes)
        problems += [f"{kind} {name}" for name, kind in outcomes if kind in ("FAILED", "ERROR")]
    if job.status != 0 and (job.status is None or not problems):
        problems.append(f"{job.name}: {job.ended}: {last_of(lines)}")
    return counts, problems


def sanitize(check: Check) -> None:
    """Every kernel under compute-sanitizer, a process for each tool and operator.

    Where a tool cannot watch even an addition of torch, as in a container that keeps it from the
    GPU, it could not be run, which is said and is no failure.
    """
    log, program = check.log("sanitize"), sanitized.program()
    if program is None:
        check.writer.begin("sanitize", ["compute-sanitizer"])
        where = "none in CUDA_HOME/bin, PATH or /usr/local/cuda/bin"
        check.writer.end("sanitize", "compute-sanitizer", None, f"could not run: {where}")
        return
    probes = [Job(tool, sanitized.command(program, tool, "--probe")) for tool in sanitized.TOOLS]
    names = {tool: [f"{tool} {op}" for op in sanitized.operators()] for tool in sanitized.TOOLS}
    check.writer.begin("sanitize", [name for tool in sanitized.TOOLS for name in names[tool]])
    run_jobs(probes, log, at_once(), min(PROBE_SECONDS, check.left("sanitize")))
    jobs = []
    for probe in probes:
        tool = probe.name
        reason = sanitized.refused(probe.status, probe.text)
        for name in names[tool]:
            if reason is None:
                command = sanitized.command(program, tool, name.removeprefix(f"{tool} "))
                jobs.append(Job(name, command))
            else:
                check.writer.end("sanitize", name, None, f"could not run: {reason}")

    def ended(job: Job) -> None:
        clean, found = sanitized.verdict(job.status, job.text)
        check.writer.end("sanitize", job.name, clean, found)

    run_jobs(jobs, log, at_once(), check.left("sanitize"), ended)


def tune_(check: Check) -> None:
    """Other tiles for the Triton kernels, or for one of them; what was timed is in tune.log."""
    from harness import tune  # which loads triton

    wanted = [entry for entry in tune.entries() if check.options.kernel in entry]
    check.writer.begin("tune", wanted)
    for entry in wanted:
        job = Job(entry, module("benchmarks.harness.tune", "--entry", entry))
        run_jobs([job], check.log("tune"), 1, check.left("tune"))
        lines = job.text.strip().splitlines()
        found = last_of(lines) if job.status == 0 else f"{job.ended}: {last_of(lines)}"
        check.writer.end("tune", entry, job.status == 0, found)
        print(f"{entry}: {found}", flush=True)


def at_once() -> int:
    return max(2, min(AT_ONCE, (os.cpu_count() or 1) // 2))


def last_of(text: str | list[str]) -> str:
    """The last line that says something."""
    lines = text.splitlines() if isinstance(text, str) else text
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


PARTS = dict(zip(figures.PARTS, (build, smoke, measure, tests, sanitize, tune_), strict=True))
