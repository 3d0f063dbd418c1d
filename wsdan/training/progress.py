"""What a run shows of an epoch: a bar on a terminal, elsewhere a line every half minute."""

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta

from tqdm import tqdm

from wsdan.data.loaders import Batch
from wsdan.distributed import is_main, print_main
from wsdan.training.state import Progress

BAR_EVERY = 5  # steps between updates of the bar's values: reading one waits for the device
LINE_EVERY = 30.0  # seconds between lines


class EpochProgress:
    """Iterates over an epoch's batches, and shows how far it is in the first process.

    Args:
        batches: those that are left.
        title: of the bar, such as "epoch 3/80".
        first: the index of the first step that is left, of `total`.
        step_size: images in a step of all ranks.
    """

    def __init__(
        self, batches: Iterable[Batch], title: str, first: int, total: int, step_size: int
    ):
        self._bar = tqdm(
            batches, title, total=total, initial=first, leave=False, unit=" images",
            unit_scale=step_size, disable=None if is_main() else True,
        )  # fmt: skip
        self._title, self._step, self._total, self._step_size = title, first, total, step_size
        self._lines = self._bar.disable
        self._shown_step, self._shown_at = first, time.perf_counter()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._bar)

    def end_step(self, progress: Progress, free: bool) -> None:
        """Show the step that has ended.

        free: whether reading a value waits for no device, as on a CPU or after another has been
        read. A line waits for such a step; the bar reads values every BAR_EVERY steps.
        """
        self._step += 1
        if not self._lines:
            if progress.steps % BAR_EVERY == 1:
                loss, accuracy = _means(progress)
                self._bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1f} %")
        elif free and is_main() and time.perf_counter() - self._shown_at >= LINE_EVERY:
            self._print_line(progress)

    def _print_line(self, progress: Progress) -> None:
        now, (loss, _) = time.perf_counter(), _means(progress)
        rate = (self._step - self._shown_step) * self._step_size / (now - self._shown_at)
        left = timedelta(seconds=round((self._total - self._step) * self._step_size / rate))
        print_main(
            f"{self._title}, step {self._step}/{self._total}: {rate:.1f} images/s, "
            f"loss {loss:.3f}, ETA {left}"
        )
        self._shown_step, self._shown_at = self._step, now


def _means(progress: Progress) -> tuple[float, float]:
    """The epoch's mean loss so far, and the accuracy in percent; reads values from the device."""
    totals = progress.totals
    loss = float(totals["loss"]) / max(int(totals["finite"]), 1)
    return loss, 100 * int(totals["correct"]) / max(int(totals["images"]), 1)
