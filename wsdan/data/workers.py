"""Signals and the end of the processes that load images."""

import atexit
import ctypes
import os
import signal
from functools import cache
from multiprocessing.sharedctypes import RawValue

GRACE = 600  # seconds: longer than a step and its checkpoint take


@cache
def ending() -> ctypes.c_bool:
    """Shared with the processes that this one starts: whether it is at its end."""
    flag = RawValue(ctypes.c_bool)
    atexit.register(setattr, flag, "value", True)  # before those of multiprocessing: last come
    return flag


def leave_signals_to_the_parent(parent_ends: ctypes.c_bool, _worker: int) -> None:
    """For the processes that load images: a signal to the whole group must not end them before
    the step that waits for them is done and saved; after GRACE seconds SIGTERM does.

    parent_ends: `ending` of the parent, which at its end sends SIGTERM, and waits, itself.
    """

    def end_with_the_parent(*_: object) -> None:
        if parent_ends.value:
            os._exit(0)  # which torch, watching in the parent, does not take for a fault
        signal.alarm(GRACE)  # whose signal kills

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_with_the_parent)
