"""Requests to stop a run: SIGTERM, Ctrl-C and the end of its terminal."""

import signal
import threading
from collections.abc import Iterable, Iterator

from wsdan.distributed import max_over_ranks

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """Within this context the first signal of SIGNALS only sets `requested`; a second one kills.

    Signals are left as they are outside the program's main thread, and SIGHUP under nohup.
    """

    def __init__(self):
        self.requested: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            handled = [number for number in SIGNALS if number != signal.SIGHUP or not under_nohup]
            self._previous = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, _frame: object) -> None:
        self.__exit__()
        self.requested = signal.Signals(number)

    def until_requested(self, batches: Iterable) -> Iterator:
        """Yield the batches until this process is asked to stop."""
        for batch in batches:
            if self.requested is not None:
                return
            yield batch

    def agreed(self) -> signal.Signals | None:
        """The signal that any process received, so that all ranks stop after the same step."""
        number = max_over_ranks(int(self.requested or 0))
        return signal.Signals(number) if number else None
