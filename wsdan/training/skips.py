"""Steps without a finite loss: they are left out; too many in a row end the run."""

from torch import Tensor

from wsdan.distributed import gather_objects
from wsdan.errors import UserError

LOOK_EVERY = 10  # steps: reading a flag waits for the device


class Skips:
    """Looks at the flags of the last steps now and then, so that no step waits for it.

    Args:
        limit: steps in a row that end the run, also where they lie in several epochs.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._unread: list[tuple[Tensor, list[str]]] = []
        self._in_a_row = 0

    def add(self, finite: Tensor, names: list[str]) -> None:
        """Note a step: its flag () and the files of its batch. Raises as `look`."""
        self._unread.append((finite.clone(), names))  # a CUDA graph writes its results again
        if len(self._unread) >= LOOK_EVERY:
            self.look()

    def look(self) -> None:
        """Read the flags. Raises UserError, with the files, where the limit is reached.

        All ranks come here after the same step and with the same flags.
        """
        for finite, names in self._unread:
            self._in_a_row = 0 if bool(finite) else self._in_a_row + 1
            if self._in_a_row >= self._limit:
                files = ", ".join(name for share in gather_objects(names) for name in share)
                raise UserError(
                    f"{self._in_a_row} steps in a row had no finite loss (--max-skipped "
                    f"{self._limit}) and changed nothing; the last of them learnt from {files}. "
                    "A lower --lr, a longer --warmup or --precision fp32 may help"
                )
        self._unread.clear()
