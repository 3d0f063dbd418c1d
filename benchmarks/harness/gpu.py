"""Time, launches and rates of an NVIDIA GPU.

A GPU works through a queue that the host fills. A short kernel is done before the host has issued
the next one, so a clock around it would measure the host. Here the GPU first sleeps until the whole
sample is in its queue, and two events in the queue bound the sample.
"""

import math
import time
from collections.abc import Callable
from functools import cache
from statistics import median

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

NAME = "cuda"
SAMPLE_SECONDS = 1e-3  # of calls in a sample, which is divided by their number
WALL_CALLS = 3  # in a sample of the wall clock, and before the first
MOST_CALLS = 20  # in a sample: the queue holds about a thousand launches
CYCLES_A_SECOND = 2e9  # of the sleep, about; it is doubled where it was too short
MOST_CYCLES = int(1e9)
MOST_SETS = 16
COPY_BYTES = 1 << 29
MATRIX = 8192
RATE_SAMPLES = 15


class Stopwatch:
    """Seconds of one call on the GPU, less what the host needs to issue it.

    Every sample checks that the sleep outlasted the host. A call that waits for the GPU itself can
    never be issued ahead of it: `clock` then says that the host's time is in the figure.
    """

    def __init__(self, call: Callable[[], object]):
        self.call = call
        self.clock = "gpu"
        call()
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        issued = time.perf_counter() - started
        torch.cuda.synchronize()
        whole = time.perf_counter() - started
        self.calls = min(MOST_CALLS, max(1, math.ceil(SAMPLE_SECONDS / whole)))
        self.cycles = int(1.5 * CYCLES_A_SECOND * issued * self.calls)

    def __call__(self) -> float:
        while True:
            seconds, ahead = self._sample()
            if ahead or self.clock != "gpu":
                return seconds
            if self.cycles > MOST_CYCLES:
                self.clock, self.cycles = "gpu and host", 1
            self.cycles *= 2

    def _sample(self) -> tuple[float, bool]:
        """Seconds of one call, and whether all calls were issued before the GPU began with them."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(self.cycles)
        begin.record()
        for _ in range(self.calls):
            self.call()
        end.record()
        ahead = not begin.query()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / self.calls, ahead

    def issued(self) -> float:
        """Seconds of one call where calls follow each other, the host's time included."""
        return _wall(self.call, self.calls)


class WallClock:
    """Seconds of one call where calls follow each other, the host's time included.

    For calls of thousands of launches, a training step: the queue does not hold them, and how well
    the host keeps ahead is part of what they take.
    """

    clock = "host"

    def __init__(self, call: Callable[[], object]):
        self.call = call
        _wall(call, WALL_CALLS)

    def __call__(self) -> float:
        return _wall(self.call, WALL_CALLS)

    issued = __call__


def _wall(call: Callable[[], object], calls: int) -> float:
    """Seconds of one call, by the host's clock, of several that the GPU has then done."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / calls


def launches(call: Callable[[], object]) -> int | None:
    """How many kernels, copies and fills one call starts; None where the profiler sees none."""
    _load_profiler()
    return _profiled(call) or None


@cache
def _load_profiler() -> None:
    """The first trace also loads the profiler, and may miss what runs meanwhile."""
    _profiled(lambda: torch.zeros(1, device=NAME))


def _profiled(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as trace:
        call()
        torch.cuda.synchronize()
    return sum(
        event.device_type() == DeviceType.CUDA and not event.is_user_annotation()
        for event in trace.profiler.kineto_results.events()
    )


def input_sets(size: int, device: str) -> int:
    """How many sets of inputs of `size` bytes take turns, so that none is in the L2 cache.

    Three at least on a GPU (two runs whose bits are compared, then one that is checked), at most
    MOST_SETS: inputs much smaller than the cache stay in it. One on the CPU.
    """
    if device != NAME:
        return 1
    cache = torch.cuda.get_device_properties(NAME).L2_cache_size
    return max(3, min(MOST_SETS, 1 + math.ceil(2 * cache / max(size, 1))))


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of one large copy on the GPU."""
    source = torch.rand(COPY_BYTES // 4, device=NAME)
    target = torch.empty_like(source)
    watch = Stopwatch(lambda: target.copy_(source))
    return 2 * COPY_BYTES / median(watch() for _ in range(RATE_SAMPLES))


def matmul_rates() -> dict[str, float]:
    """Operations a second of one square product of random values, by kind."""
    before = torch.get_float32_matmul_precision()
    rates = {}
    try:
        for kind, dtype, precision in (
            ("bfloat16", torch.bfloat16, "highest"),
            ("tf32", torch.float32, "high"),
            ("float32", torch.float32, "highest"),
        ):
            torch.set_float32_matmul_precision(precision)
            left, right = torch.randn((2, MATRIX, MATRIX), device=NAME).to(dtype)
            watch = Stopwatch(lambda left=left, right=right: torch.mm(left, right))
            rates[kind] = 2 * MATRIX**3 / median(watch() for _ in range(RATE_SAMPLES))
    finally:
        torch.set_float32_matmul_precision(before)
    return rates
