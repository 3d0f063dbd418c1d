"""The harness of the benchmarks: variants of one work, checked equal, then timed in turn."""

import argparse
import ctypes
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

import torch
from harness import gpu, report
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from wsdan_kernels import backends
from wsdan_kernels.testing import relative_error

LIMIT = "product"  # the variant that is the bare work: timed and never checked
PASSES = "three passes"  # so is this one, of a training step: the backbone alone
RAW = "raw"  # and this one, of inference with two views: one of them
BARE = (LIMIT, PASSES, RAW)
REFERENCE, COMPILED = "reference", "compiled"
SECONDS_A_VARIANT = 0.5  # slow variants get fewer rounds, so that a benchmark ends in 90 s
FEWEST_ROUNDS = 3
COPY_BYTES = 1 << 27
INTERPRETED = False  # a test's switch: on the CPU, Triton's kernels in its interpreter are ours too
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler complains of a missing GPU
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # so does torch.compile

Result = Tensor | tuple[Tensor, ...]


@dataclass
class Work:
    """One piece of work and the ways to do it.

    variants: by name, each returns the same tensors; the first is the baseline of the ratios. The
    first call may compile; every call does the same amount of work.
    moved: bytes that must be read and written. operations: floating point ones, or 0; the rate is
    in GFLOP/s where they are given, else in GB/s. The limit is the copy of `moved` bytes, or a
    variant of BARE: LIMIT on the CPU, the others anywhere. directions: operators, forward or
    backward, in one call of ours. truth: the variant that the others must equal, by default the
    baseline; it is another where the baseline rounds more coarsely than the tolerance. tolerances:
    of variants that have their own, as other libraries round. images: those of a training step, of
    which no two calls are the same, or of inference; the rate is in images a second, the host's
    time included. phases: measures the milliseconds of each phase of such a step of the variant
    "auto".
    """

    name: str
    shape: str
    variants: dict[str, Callable[[], Result]]
    tolerance: float
    moved: float
    operations: float = 0.0
    device: str = "cpu"
    directions: int = 1
    truth: str | None = None
    tolerances: dict[str, float] = field(default_factory=dict)
    images: int = 0
    phases: Callable[[], dict[str, float]] | None = None
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
        and (name != "triton" or device != "cpu" or INTERPRETED)
        and all(backends.why_not(op, name, device, dtype) is None for op in ops)
    ]
    mixed = any(backends.resolve(op, "auto", device, dtype) != "reference" for op in ops)
    return names or (["auto"] if mixed else [])


def in_turn(calls: list[Callable[[], Result]]) -> Callable[[], Result]:
    """One call after the other, round and round: the same work on several sets of inputs."""
    if len(calls) == 1:
        return calls[0]
    turns = itertools.cycle(calls)
    return lambda: next(turns)()


def compiled(function: Callable) -> Callable:
    """torch.compile of this function, from its first call on: the compiler loads for seconds."""
    compile_once = cache(lambda: torch.compile(function, dynamic=False))
    return lambda *inputs: compile_once()(*inputs)


def check(work: Work) -> None:
    """Call every variant once and compare it with the truth; AssertionError where one differs.

    torch.compile and other libraries are not ours: where one fails or differs, its variant goes and
    a note says why. So does a baseline that a GPU's memory does not hold. A baseline that is not
    the truth may differ; a note says by how much.
    """
    if COMPILED in work.variants:
        torch._dynamo.reset()
    results = {}
    foreign = set(work.variants) - {*report.OURS, *BARE, work.baseline, REFERENCE}
    for name in [name for name in work.variants if name not in BARE]:
        try:
            results[name] = tensors(work.variants[name]())
        except Exception as error:
            no_room = isinstance(error, torch.OutOfMemoryError) and name not in report.OURS
            if name not in foreign and not no_room:
                raise
            _leave_out(work, name, str(error).strip().splitlines()[0])
    truth = work.truth if work.truth in results else next(iter(results))
    for name in [name for name in results if name != truth]:
        pairs = zip(results[name], results[truth], strict=True)
        errors = [relative_error(value, right) for value, right in pairs]
        allowed = work.tolerances.get(name, work.tolerance)
        if all(error <= allowed for error in errors):
            continue
        text = f"relative error {max(errors):.1e}, {allowed:.0e} allowed"
        if name in foreign:
            _leave_out(work, name, text)
        elif name == work.baseline:
            work.notes.append(f"{name} differs from {truth}: relative error {max(errors):.1e}")
        else:
            raise AssertionError(f"{work.title}: {name} differs from {truth}: {text}")


def measure(
    work: Work, repeats: int, copy_bytes_per_s: float, fewest: int = FEWEST_ROUNDS
) -> list[report.Row]:
    """Warm up, time the variants in turn, and measure what one call of each allocates.

    On a CPU each is called once more before its turn is timed: the threads that another variant
    leaves spinning, and the freed memory that is no longer in the cache, cost the next call a
    millisecond, and in a fixed order always the same variant's.
    """
    rounds, watches = {}, {}
    for name, call in work.variants.items():
        watches[name] = watch = stopwatch(call, work.device, with_host=work.images > 0)
        wanted = max(fewest, int(SECONDS_A_VARIANT / watch()))
        rounds[name] = min(repeats, wanted)
    times: dict[str, list[float]] = {name: [] for name in work.variants}
    on_gpu = work.device == gpu.NAME
    most = max(rounds.values())
    for i in range(most):
        for name, watch in watches.items():
            if (i + 1) * rounds[name] // most > i * rounds[name] // most:
                if not on_gpu:
                    work.variants[name]()
                times[name].append(watch())
    medians = {name: percentile(values, 0.5) for name, values in times.items()}
    bare = next((name for name in BARE if name in work.variants), None)
    if bare == LIMIT and on_gpu:
        bare = None
    limit = work.moved / copy_bytes_per_s if bare is None else medians[bare]
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
            **_rate(work, medians[name]),
            limit=bare or "copy",
            share=limit / medians[name],
            extra_mb=peak_extra_bytes(work.variants[name], work.device) / 1e6,
            launches=gpu.launches(work.variants[name]) if on_gpu else None,
            call_ms=1e3 * watches[name].issued() if on_gpu else None,
            clock=watches[name].clock if on_gpu else "host",
            phases=work.phases() if work.phases is not None and name == "auto" else None,
        )
        for name, values in times.items()
    ]


def _rate(work: Work, seconds: float) -> dict[str, object]:
    """What a call gets done in a second, and in which unit."""
    if work.images:
        return {"rate": work.images / seconds, "unit": "images/s"}
    if work.operations and work.device != gpu.NAME:
        return {"rate": work.operations / seconds / 1e9, "unit": "GFLOP/s"}
    return {"rate": work.moved / seconds / 1e9, "unit": "GB/s"}


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, as a run of many equal steps should have it.

    Else a variant whose results are large gives their pages back after each call and pays for new
    ones, or not, as the variants before it left the heap: 7 or 17 ms for the same 25 MB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # of malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def percentile(values: list[float], share: float) -> float:
    """The value of this rank: 0.5 is the median."""
    return sorted(values)[round(share * (len(values) - 1))]


def peak_extra_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """The most that one call holds at a time above what was held before it, its result included.

    On the CPU the running sum of the profiler's memory events: torch's allocator, so not what a
    kernel takes from the system by itself (scratch of a few KB a thread in ours, BLAS's own).
    """
    if device == gpu.NAME:
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
    if device == gpu.NAME:
        return gpu.copy_bandwidth()
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    target.copy_(source)
    times = [_clock(lambda: target.copy_(source)) for _ in range(9)]
    return 2 * COPY_BYTES / percentile(times, 0.5)


def matmul_rate() -> float:
    """Operations a second of one square float32 matrix product: what the CPU can do."""
    size = 1024
    left, right = torch.ones((2, size, size))
    torch.mm(left, right)
    times = [_clock(lambda: torch.mm(left, right)) for _ in range(15)]
    return 2 * size**3 / percentile(times, 0.2)


def machine(device: str) -> dict[str, object]:
    """What this machine is and what it can do, measured."""
    facts = report.machine(device)
    facts["copy_gb_per_s"] = copy_bandwidth(device) / 1e9
    if device == gpu.NAME:
        rates = gpu.matmul_rates()
        facts["matmul_gflop_per_s"] = rates["float32"] / 1e9
        facts["matmul_tflop_per_s"] = {kind: rate / 1e12 for kind, rate in rates.items()}
    else:
        facts["matmul_gflop_per_s"] = matmul_rate() / 1e9
    return facts


def use(device: str) -> str | None:
    """Make the device ready for benchmarks, or say in one line why it cannot be used.

    torch's convolutions take TF32 for float32 by default; here float32 is float32 in all variants.
    """
    if device == gpu.NAME:
        if not torch.cuda.is_available():
            return f"this torch ({torch.__version__}) sees no CUDA device"
        torch.backends.cudnn.allow_tf32 = False
    return None


def parse(
    description: str,
    arguments: list[str] | None = None,
    more: Callable[[argparse.ArgumentParser], object] | None = None,
    batches: tuple[int, ...] = (12, 128),
) -> argparse.Namespace:
    """The options that every benchmark takes, and what `more` adds to them.

    batches: the default, of which the CPU takes the first.
    """
    parser = argparse.ArgumentParser(description=description)
    if more is not None:
        more(parser)
    add = parser.add_argument
    further = " and ".join(map(str, batches[1:]))
    text = f"images (default: {batches[0]}; on cuda, but for training steps, {further} too)"
    add("--batch", type=int, help=text)
    add("--device", default="cpu", choices=("cpu", "cuda"), help="where to run (default: cpu)")
    add("--threads", type=int, help="CPU threads (default: torch's choice)")
    add("--repeats", type=int, default=30, help="most rounds of a variant (default: 30)")
    add("--fewest", type=int, default=FEWEST_ROUNDS, help="rounds of a slow one (default: 3)")
    add("--only", default="", metavar="TEXT", help="only works with this text in their title")
    add("--no-compile", action="store_true", help="leave out the variants under torch.compile")
    add("--json", metavar="FILE", help="write the rows to this file too")
    add("--plot", metavar="FILE.png", help="draw the rows (needs matplotlib)")
    add("--base", metavar="FILE", help="an earlier --json: exit 1 if one of ours lost over 10%%")
    options = parser.parse_args(arguments)
    for name in ("batch", "repeats", "fewest", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, but got {value}")
    options.batches = (options.batch,) if options.batch else batches
    options.batch = options.batches[0]
    return options


def network_options(backbone: str) -> Callable[[argparse.ArgumentParser], None]:
    """For `parse`: the options of the benchmarks of whole networks; backbone: the default."""

    def add(parser: argparse.ArgumentParser) -> None:
        text = "of wsdan (default: %(default)s)"
        parser.add_argument("--backbone", default=backbone, help=text)
        parser.add_argument("--image-size", type=int, default=448, help="pixels (default: 448)")

    return add


def run(
    works: Callable[[argparse.Namespace], Iterable[Work]],
    options: argparse.Namespace,
    plot: Callable[[list[report.Row], dict, str], None] = report.plot,
) -> int:
    """Measure the works and print, write and draw their rows; the exit status."""
    if reason := use(options.device):
        print(f"--device {options.device}: {reason}", file=sys.stderr)
        return 2
    keep_freed_memory()
    if options.plot:
        report.require_matplotlib()
    base = report.read_json(options.base) if options.base else None
    if options.threads:
        torch.set_num_threads(options.threads)
    facts = machine(options.device)
    print(report.HEADER)
    rows = []
    for work in works(options):
        if options.only not in work.title:
            continue
        if options.no_compile:
            work.variants.pop(COMPILED, None)
        check(work)
        copy_bytes_per_s = 1e9 * facts["copy_gb_per_s"]
        rows += (group := measure(work, options.repeats, copy_bytes_per_s, options.fewest))
        print(report.group_text(work.title, group, work.notes), flush=True)
    if not rows:
        print(f"no work has {options.only!r} in its title", file=sys.stderr)
        return 2
    print(report.machine_text(facts))
    if options.json:
        report.write_json(rows, facts, options.json)
    if options.plot:
        plot(rows, facts, options.plot)
    if base is None:
        return 0
    lines, lost = report.compare(rows, facts, base)
    print("\n".join(lines))
    return 1 if lost else 0


def _leave_out(work: Work, name: str, reason: str) -> None:
    del work.variants[name]
    work.notes.append(f"{name} left out: {reason[:90]}")


def tensors(result: Result) -> tuple[Tensor, ...]:
    """What a variant returned, as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def stopwatch(
    call: Callable[[], object], device: str, with_host: bool = False
) -> Callable[[], float]:
    """A clock of this call, warmed up: each reading is the seconds of one call.

    with_host: on a GPU, whether the time includes the host's, which issues the call.
    """
    if device == gpu.NAME:
        return gpu.WallClock(call) if with_host else gpu.Stopwatch(call)
    call()
    return lambda: _clock(call)


def _clock(call: Callable[[], object]) -> float:
    """Seconds of one call on the host."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
