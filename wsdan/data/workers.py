"""Signals and errors in the data loader's workers."""

import atexit
import ctypes
import os
import signal
import sys
from functools import cache
from multiprocessing.sharedctypes import RawValue
from types import TracebackType

GRACE = 600  # seconds; longer than a step and its checkpoint take


@cache
def ending() -> ctypes.c_bool:
    """A flag shared with child processes: whether this process is exiting."""
    flag = RawValue(ctypes.c_bool)
    # Exit handlers run in reverse order: this one before those of multiprocessing.
    atexit.register(setattr, flag, "value", True)
    return flag


def leave_signals_to_the_parent(parent_ends: ctypes.c_bool, _worker: int) -> None:
    """A worker_init_fn: ignore signals to the process group, which the main process handles.

    Workers must not end before the step that waits for them is done and saved. After a SIGTERM they
    end with the parent, or after GRACE seconds.

    parent_ends: the parent's `ending` flag. At its exit the parent sends SIGTERM to its workers and
    waits for them.
    """

    def end_with_the_parent(*_: object) -> None:
        if parent_ends.value:
            os._exit(0)  # status 0, so that torch does not report a failed worker
        signal.alarm(GRACE)  # SIGALRM then ends the process

    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_with_the_parent)
    sys.excepthook = _unless_the_parent_left


def _unless_the_parent_left(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """The sys.excepthook of a worker: silent about a parent that ends while it takes a tensor.

    The thread of multiprocessing that hands them over reports here. Errors of the worker itself
    go to the parent.
    """
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, traceback)
