"""Attempts with exponential back-off and jitter, up to a number and a total time."""

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from wsdan.remote.errors import RemoteError, final_error, is_of_the_store, reason_of

Found = TypeVar("Found")
# Its own generator: a run's random numbers do not depend on the network.
_JITTER = random.Random()


@dataclass
class Retries:
    """How long an access is tried.

    Args:
        attempts: at most so many.
        first: seconds of the pause after the first; each further one is twice as long, up to
            `longest`. A pause is drawn between a half and the whole of it.
        seconds: no attempt begins later than so long after the first.
    """

    attempts: int = 8
    first: float = 0.5
    longest: float = 20.0
    seconds: float = 120.0


RETRIES = Retries()


def persistently(address: str, access: Callable[[], Found]) -> Found:
    """What `access` returns, at an attempt that succeeds. Raises RemoteError, in one line."""
    start = time.monotonic()
    for attempt in itertools.count(1):
        try:
            return access()
        except RemoteError:
            raise
        except Exception as error:
            if not is_of_the_store(error):
                raise
            final = final_error(address, error)
            if final is not None:
                raise final from None
            pause = min(RETRIES.first * 2 ** (attempt - 1), RETRIES.longest)
            pause *= _JITTER.uniform(0.5, 1)
            seconds = time.monotonic() - start
            if attempt >= RETRIES.attempts or seconds + pause > RETRIES.seconds:
                raise RemoteError(
                    f"{address}: cannot be reached: {reason_of(error)}; gave up after {attempt} "
                    f"attempts in {seconds:.0f} s"
                ) from None
        time.sleep(pause)
    raise AssertionError
