"""Requests to stop: SIGTERM, and Ctrl-C."""

import signal
import threading
from collections.abc import Iterable, Iterator

from wsdan.distributed import largest

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Under this context the first SIGTERM or Ctrl-C only sets `requested`; a second one kills.

    Outside of a program's main thread signals stay as they are.
    """

    def __init__(self):
        self.requested: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _frame: object) -> None:
        self.__exit__()
        self.requested = signal.Signals(number)

    def until_requested(self, batches: Iterable) -> Iterator:
        """The batches, as long as this process was not asked to stop."""
        for batch in batches:
            if self.requested is not None:
                return
            yield batch

    def agreed(self) -> signal.Signals | None:
        """The signal that reached any process, so that all ranks stop after the same step."""
        number = largest(int(self.requested or 0))
        return signal.Signals(number) if number else None
