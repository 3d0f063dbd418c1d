"""The harness of the benchmarks: variants of one work, checked equal, then timed in turn."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

import report
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from wsdan_kernels import backends
from wsdan_kernels.testing import relative_error

LIMIT = "product"  # the variant that is the bare work: timed and never checked
COMPILED = "compiled"
SECONDS_A_VARIANT = 0.5  # slow variants get fewer rounds, so that a benchmark ends in 90 s
FEWEST_ROUNDS = 3
COPY_BYTES = 1 << 27
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler complains of a missing GPU
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # so does torch.compile

Result = Tensor | tuple[Tensor, ...]


@dataclass
class Work:
    """One piece of work and the ways to do it.

    variants: by name, each returns the same tensors; the first is the baseline of the ratios. The
    first call may compile; every call does the same amount of work.
    moved: bytes that must be read and written. operations: floating point ones, or 0; the rate is
    in GFLOP/s where they are given, else in GB/s. The limit is the variant LIMIT where there is
    one, else the copy of `moved` bytes.
    """

    name: str
    shape: str
    variants: dict[str, Callable[[], Result]]
    tolerance: float
    moved: float
    operations: float = 0.0
    device: str = "cpu"
    notes: list[str] = field(default_factory=list)

    @property
    def baseline(self) -> str:
        return next(iter(self.variants))

    @property
    def title(self) -> str:
        return f"{self.name}, {self.shape}"


def ours(ops: Iterable[str], device: str, dtype: torch.dtype) -> list[str]:
    """Our backends that run all these ops here; "auto" where none does and only some ops have one.

    ops: names of wsdan_kernels.ops.KERNELS.
    """
    ops = tuple(ops)
    names = [
        name
        for name in backends.NAMES
        if name != "reference"
        and all(backends.why_not(op, name, device, dtype) is None for op in ops)
    ]
    mixed = any(backends.resolve(op, "auto", device, dtype) != "reference" for op in ops)
    return names or (["auto"] if mixed else [])


def compiled(function: Callable) -> Callable:
    """torch.compile of this function, from its first call on: the compiler loads for seconds."""
    compile_once = cache(lambda: torch.compile(function, dynamic=False))
    return lambda *inputs: compile_once()(*inputs)


def check(work: Work) -> None:
    """Call every variant once and compare it with the baseline; AssertionError where one differs.

    torch.compile is not ours: where it fails or differs, its variant goes and a note says why.
    """
    if COMPILED in work.variants:
        torch._dynamo.reset()
    truth = _tensors(work.variants[work.baseline]())
    for name in [name for name in work.variants if name not in (work.baseline, LIMIT)]:
        try:
            values = _tensors(work.variants[name]())
        except Exception as error:
            if name != COMPILED:
                raise
            _leave_out(work, name, str(error).strip().splitlines()[0])
            continue
        errors = [relative_error(a, b) for a, b in zip(values, truth, strict=True)]
        if all(error <= work.tolerance for error in errors):
            continue
        text = f"relative error {max(errors):.1e}, {work.tolerance:.0e} allowed"
        if name != COMPILED:
            raise AssertionError(f"{work.title}: {name} differs from {work.baseline}: {text}")
        _leave_out(work, name, text)


def measure(work: Work, repeats: int, copy_bytes_per_s: float) -> list[report.Row]:
    """Warm up, time the variants in turn, and measure what one call of each allocates."""
    rounds = {}
    for name, call in work.variants.items():
        call()
        estimate = _clock(call, work.device)
        wanted = max(FEWEST_ROUNDS, int(SECONDS_A_VARIANT / estimate))
        rounds[name] = min(repeats, wanted)
    times: dict[str, list[float]] = {name: [] for name in work.variants}
    most = max(rounds.values())
    for i in range(most):
        for name, call in work.variants.items():
            if (i + 1) * rounds[name] // most > i * rounds[name] // most:
                times[name].append(_clock(call, work.device))
    medians = {name: percentile(values, 0.5) for name, values in times.items()}
    limit = medians.get(LIMIT, work.moved / copy_bytes_per_s)
    return [
        report.Row(
            work=work.name,
            shape=work.shape,
            variant=name,
            median_ms=1e3 * medians[name],
            low_ms=1e3 * percentile(values, 0.2),
            high_ms=1e3 * percentile(values, 0.8),
            rounds=len(values),
            ratio=medians[work.baseline] / medians[name],
            rate=(work.operations or work.moved) / medians[name] / 1e9,
            unit="GFLOP/s" if work.operations else "GB/s",
            limit=LIMIT if LIMIT in work.variants else "copy",
            share=limit / medians[name],
            extra_mb=peak_extra_bytes(work.variants[name], work.device) / 1e6,
        )
        for name, values in times.items()
    ]


def percentile(values: list[float], share: float) -> float:
    """The value of this rank: 0.5 is the median."""
    return sorted(values)[round(share * (len(values) - 1))]


def peak_extra_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """The most that one call holds at a time above what was held before it, its result included.

    On the CPU the running sum of the profiler's memory events: torch's allocator, so not what a
    kernel takes from the system by itself (scratch of a few KB a thread in ours, BLAS's own).
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        del result
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as trace:
        result = call()
    del result
    events = [
        event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def copy_bandwidth(device: str = "cpu") -> float:
    """Bytes a second, read and written, of one large copy between buffers made before."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    target.copy_(source)
    times = [_clock(lambda: target.copy_(source), device) for _ in range(9)]
    return 2 * COPY_BYTES / percentile(times, 0.5)


def matmul_rate(device: str = "cpu") -> float:
    """Operations a second of one square float32 matrix product: what the machine can do."""
    size = 1024
    left, right = torch.ones((2, size, size), device=device)
    torch.mm(left, right)
    times = [_clock(lambda: torch.mm(left, right), device) for _ in range(15)]
    return 2 * size**3 / percentile(times, 0.2)


def parse(description: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--batch", type=int, default=12, help="pictures (default: 12, the paper's)")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="where to run (default: cpu)")
    add("--threads", type=int, help="CPU threads (default: torch's choice)")
    add("--repeats", type=int, default=30, help="most rounds of a variant (default: 30)")
    add("--only", default="", metavar="TEXT", help="only works with this text in their title")
    add("--no-compile", action="store_true", help="leave out torch.compile of the reference")
    add("--json", metavar="FILE", help="write the rows to this file too")
    add("--plot", metavar="FILE.png", help="draw the rows (needs matplotlib)")
    add("--base", metavar="FILE", help="an earlier --json: exit 1 if one of ours lost over 10%%")
    options = parser.parse_args(arguments)
    for name in ("batch", "repeats", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, but got {value}")
    return options


def run(works: Callable[[argparse.Namespace], Iterable[Work]], options: argparse.Namespace) -> int:
    """Measure the works and print, write and draw their rows; the exit status."""
    if options.plot:
        report.require_matplotlib()
    base = report.read_json(options.base) if options.base else None
    if options.threads:
        torch.set_num_threads(options.threads)
    machine = report.machine(options.device)
    machine["copy_gb_per_s"] = copy_bandwidth(options.device) / 1e9
    machine["matmul_gflop_per_s"] = matmul_rate(options.device) / 1e9
    print(report.HEADER)
    rows = []
    for work in works(options):
        if options.only not in work.title:
            continue
        if options.no_compile:
            work.variants.pop(COMPILED, None)
        check(work)
        rows += (group := measure(work, options.repeats, 1e9 * machine["copy_gb_per_s"]))
        print(report.group_text(work.title, group, work.notes), flush=True)
    if not rows:
        print(f"no work has {options.only!r} in its title", file=sys.stderr)
        return 2
    print(report.machine_text(machine))
    if options.json:
        report.write_json(rows, machine, options.json)
    if options.plot:
        report.plot(rows, machine, options.plot)
    if base is None:
        return 0
    lines, lost = report.compare(rows, machine, base)
    print("\n".join(lines))
    return 1 if lost else 0


def _leave_out(work: Work, name: str, reason: str) -> None:
    del work.variants[name]
    work.notes.append(f"{name} left out: {reason[:90]}")


def _tensors(result: Result) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _clock(call: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
