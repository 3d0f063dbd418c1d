"""The time of each phase of a training step: `wsdan train --profile`.

The training loop marks the phases with a `Profiler`, which measures nothing, or a `StepProfiler`,
which measures their times.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

# The modules of a model that are phases of their own, and the phases' names.
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
WARM_UP = 3  # first steps, which are slower


class Profiler:
    """Marks the phases of a training step; measures nothing."""

    def __call__(self, name: str) -> AbstractContextManager:
        """A context: the block in it is the phase `name`."""
        return nullcontext()

    def data(self, batches: Iterable) -> Iterable:
        """Yield the batches; waiting for a batch is the phase "data"."""
        return batches

    def end_step(self) -> None:
        """Mark the end of a training step."""


NO_PROFILER = Profiler()


class StepProfiler(Profiler):
    """Measures the time of each phase without the phases inside it, so that they sum to the step.

    Only time within the loop over `data` counts, not an evaluation between two epochs. Forward
    hooks time the modules in MODEL_PARTS.

    Args:
        clock: returns seconds, see `device_clock`.
        model: the model whose modules are timed.
    """

    def __init__(self, clock: Callable[[], float], model: nn.Module | None = None):
        self.seconds: dict[str, float] = defaultdict(float)  # by phase, of all measured steps
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
        self._record()
        self._step.clear()
        self._enter("data")
        for batch in batches:
            self._leave()
            yield batch
            self._enter("data")
        self._leave()

    def end_step(self) -> None:
        self._record()
        self.steps += 1
        if self.steps == WARM_UP + 1:  # discard the warm-up: other steps follow
            self.seconds.clear()
        for name, seconds in self._step.items():
            self.seconds[name] += seconds
        self._step.clear()

    @property
    def measured(self) -> int:
        """The number of steps in `seconds`: without the warm-up, unless the run is shorter."""
        return self.steps - WARM_UP if self.steps > WARM_UP else self.steps

    def table(self) -> str:
        """A table of each phase's milliseconds per step and share, for the terminal."""
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
        self._record()
        self._open.append(name)

    def _leave(self) -> None:
        self._record()
        self._open.pop()

    def _record(self) -> None:
        """Add the time since the last call to the innermost open phase."""
        now = self._clock()
        self._step[self._open[-1]] += now - self._since
        self._since = now


def device_clock(device: torch.device) -> Callable[[], float]:
    """A clock in seconds that waits for the device's pending work, which slows a run."""
    if device.type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock
