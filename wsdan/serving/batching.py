"""Requests that arrive together pass the network together."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Batcher:
    """Collects jobs into batches, which a thread of its own runs one after another.

    A batch begins when `max_batch` jobs wait, or `max_wait` seconds after the first of them. Those
    that arrive while a batch runs are the next one. `start` and `stop` are called in the event
    loop.

    Args:
        run: from a list of 1 to max_batch jobs to the list of their outcomes.
    """

    def __init__(
        self, run: Callable[[list[Any]], list[Any]], max_batch: int = 16, max_wait: float = 0.005
    ):
        self._run, self._max_batch, self._max_wait = run, max_batch, max_wait
        self._waiting: deque[tuple[Any, asyncio.Future]] = deque()
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker: asyncio.Task | None = None
        self.batches = self.jobs = 0  # that were run

    def start(self) -> None:
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """End at once: jobs that wait are cancelled, the batch that runs is not waited for."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        for _, outcome in self._waiting:
            outcome.cancel()
        self._waiting.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def submit(self, job: Any) -> Any:
        """The outcome of a job. A job whose caller was cancelled before it began is left out.

        Raises what `run` raised for its batch.
        """
        outcome = asyncio.get_running_loop().create_future()
        self._waiting.append((job, outcome))
        self._arrived.set()
        if len(self._waiting) >= self._max_batch:
            self._full.set()
        return await outcome

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._full.is_set():
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._max_wait)
            batch = self._next()
            if batch:
                await self._finish(batch)

    def _next(self) -> list[tuple[Any, asyncio.Future]]:
        """Take the next batch of those that wait, without jobs that nobody waits for any more."""
        batch: list[tuple[Any, asyncio.Future]] = []
        while self._waiting and len(batch) < self._max_batch:
            job, outcome = self._waiting.popleft()
            if not outcome.done():
                batch.append((job, outcome))
        if len(self._waiting) < self._max_batch:
            self._full.clear()
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _finish(self, batch: list[tuple[Any, asyncio.Future]]) -> None:
        loop = asyncio.get_running_loop()
        self.batches, self.jobs = self.batches + 1, self.jobs + len(batch)
        try:
            results = await loop.run_in_executor(self._thread, self._run, [job for job, _ in batch])
        except Exception as error:  # of the model: each caller is told, and the next batch runs
            for _, outcome in batch:
                if not outcome.done():
                    outcome.set_exception(error)
            return
        except asyncio.CancelledError:
            for _, outcome in batch:
                outcome.cancel()
            raise
        for (_, outcome), result in zip(batch, results, strict=True):
            if not outcome.done():
                outcome.set_result(result)
