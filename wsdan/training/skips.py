"""Steps without a finite loss: they are skipped, and too many in a row end the run."""

from torch import Tensor

from wsdan.distributed import gather_objects
from wsdan.errors import UserError

CHECK_EVERY = 10  # steps: reading a flag waits for the device


class Skips:
    """Counts skipped steps in a row; reads the flags every CHECK_EVERY steps, so that a single
    step does not wait for the device.

    Args:
        limit: skipped steps in a row, across epochs too, that end the run.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._unread: list[tuple[Tensor, list[str]]] = []
        self._in_a_row = 0

    def add(self, finite: Tensor, names: list[str]) -> bool:
        """Record a step: its flag (), 0 if skipped, and its files. Raises like `check`.

        Returns whether the flags were read, and so the device has been waited for.
        """
        self._unread.append((finite.clone(), names))  # a CUDA graph overwrites its results
        if len(self._unread) < CHECK_EVERY:
            return False
        self.check()
        return True

    def check(self) -> None:
        """Read the recorded flags. Raises UserError, which names the files, at the limit.

        All ranks must call it after the same step, with the same flags.
        """
        for finite, names in self._unread:
            self._in_a_row = 0 if bool(finite) else self._in_a_row + 1
            if self._in_a_row >= self._limit:
                files = ", ".join(name for rank in gather_objects(names) for name in rank)
                raise UserError(
                    f"{self._in_a_row} steps in a row had no finite loss (--max-skipped "
                    f"{self._limit}) and were skipped; the last batch was {files}. "
                    "A lower --lr, a longer --warmup or --precision fp32 may help"
                )
        self._unread.clear()
