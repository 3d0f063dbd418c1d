"""Requests to stop: SIGTERM, and Ctrl-C."""

import atexit
import ctypes
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from functools import cache
from multiprocessing.sharedctypes import RawValue

from wsdan.distributed import largest

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 600  # seconds: longer than a step and its checkpoint take


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


@cache
def ending() -> ctypes.c_bool:
    """Shared with the processes that this one starts: whether it is at its end."""
    flag = RawValue(ctypes.c_bool)
    atexit.register(setattr, flag, "value", True)  # before those of multiprocessing: last come
    return flag


def leave_signals_to_the_parent(parent_ends: ctypes.c_bool, _worker: int) -> None:
    """For the processes that load pictures: a signal to the whole group must not end them before
    the step that waits for them is done and saved; after GRACE seconds SIGTERM does.

    parent_ends: `ending` of the parent, which at its end sends SIGTERM, and waits, itself.
    """

    def end_with_the_parent(*_: object) -> None:
        if parent_ends.value:
            os._exit(0)  # which torch, watching in the parent, does not take for a fault
        signal.alarm(GRACE)  # whose signal kills

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_with_the_parent)
