"""Where a training step's time goes: `wsdan train --profile`.

The loop marks its phases on a `Profiler`, which measures nothing; a `StepProfiler` measures them.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

# The parts of a model that are phases of their own, where it has them.
MODEL_PARTS = {
    "backbone": "backbone forward",
    "attention": "attention maps",
    "pool": "pooling",
}
OTHER = "other"
ORDER = (
    "data",
    *MODEL_PARTS.values(),
    "views",
    "classifier and losses",
    "backward",
    "optimizer",
    OTHER,
)
WARM_UP = 3  # first steps, slower than the rest


class Profiler:
    """The marks of the training loop; nothing is measured."""

    def __call__(self, name: str) -> AbstractContextManager:
        """The block under this context is the phase `name`."""
        return nullcontext()

    def data(self, batches: Iterable) -> Iterable:
        """The batches; waiting for each is the phase "data"."""
        return batches

    def end_step(self) -> None:
        """Mark the end of a training step."""


NO_PROFILER = Profiler()


class StepProfiler(Profiler):
    """Measures exclusive times: each moment of a step counts for the innermost phase then open.

    So the phases sum to the step. Only what lies inside `data` counts, not an evaluation between
    two epochs. The parts of the model are timed by forward hooks.

    Args:
        clock: gives seconds; `device_clock` for a model.
    """

    def __init__(self, clock: Callable[[], float], model: nn.Module | None = None):
        self.seconds: dict[str, float] = defaultdict(float)  # of all measured steps
        self.steps = 0  # warm-up included
        self._clock = clock
        self._step: dict[str, float] = defaultdict(float)
        self._open = [OTHER]
        self._since = clock()
        for attribute, phase in MODEL_PARTS.items():
            part = getattr(model, attribute, None)
            if part is not None:
                part.register_forward_pre_hook(lambda *_, phase=phase: self._enter(phase))
                part.register_forward_hook(lambda *_: self._leave())

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def data(self, batches: Iterable) -> Iterator:
        self._count()
        self._step.clear()
        self._enter("data")
        for batch in batches:
            self._leave()
            yield batch
            self._enter("data")
        self._leave()

    def end_step(self) -> None:
        self._count()
        self.steps += 1
        if self.steps == WARM_UP + 1:  # enough steps follow to do without the first
            self.seconds.clear()
        for name, seconds in self._step.items():
            self.seconds[name] += seconds
        self._step.clear()

    @property
    def measured(self) -> int:
        """The number of steps in `seconds`: all but the warm-up, unless the run is that short."""
        return self.steps - WARM_UP if self.steps > WARM_UP else self.steps

    def table(self) -> str:
        """Milliseconds per step and share of each phase, for the terminal."""
        if self.steps == 0:
            return "profile: no training step was run"
        total = sum(self.seconds.values())
        rows = [(name, self.seconds[name]) for name in ORDER if name in self.seconds]
        lines = [f"{'phase':<22} {'ms/step':>9}    share"]
        for name, seconds in [*rows, ("step", total)]:
            milliseconds, share = 1e3 * seconds / self.measured, 100 * seconds / total
            lines.append(f"{name:<22} {milliseconds:9.2f}  {share:5.1f} %")
        warm_up = "after" if self.steps > WARM_UP else "among"
        lines.append(f"mean of {self.measured} steps, {warm_up} the first {WARM_UP}")
        return "\n".join(lines)

    def _enter(self, name: str) -> None:
        self._count()
        self._open.append(name)

    def _leave(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        """Give the time since the last border to the innermost open phase."""
        now = self._clock()
        self._step[self._open[-1]] += now - self._since
        self._since = now


def device_clock(device: torch.device) -> Callable[[], float]:
    """A clock in seconds that first waits for the work the device still has, which slows a run."""
    if device.type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock
