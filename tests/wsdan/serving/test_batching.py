"""Jobs that arrive together run together; none is lost, whatever ends."""

import asyncio
import threading

import pytest

from wsdan.serving.batching import Batcher


def run(asking, **options):
    """What `asking(batcher, sizes)` returns; sizes: of the batches, as they begin."""
    sizes = []

    def double(jobs):
        sizes.append(len(jobs))
        if -1 in jobs:
            raise RuntimeError("a fault of the model")
        return [2 * job for job in jobs]

    async def main():
        batcher = Batcher(options.pop("run", double), **options)
        batcher.start()
        try:
            return await asyncio.wait_for(asking(batcher, sizes), 10)
        finally:
            await batcher.stop()

    return asyncio.run(main())


def test_jobs_that_arrive_together_are_one_batch():
    async def ask(batcher, sizes):
        outcomes = await asyncio.gather(*(batcher.submit(i) for i in range(20)))
        assert outcomes == [2 * i for i in range(20)]
        return sizes

    assert run(ask, max_batch=8, max_wait=0.05) == [8, 8, 4]


def test_a_lone_job_waits_no_longer_than_max_wait():
    async def ask(batcher, sizes):
        return await batcher.submit(4), sizes

    assert run(ask, max_batch=8, max_wait=0.01) == (8, [1])


def test_a_full_batch_does_not_wait():
    async def ask(batcher, _):
        return await asyncio.wait_for(asyncio.gather(*map(batcher.submit, range(4))), 5)

    assert run(ask, max_batch=4, max_wait=1000) == [0, 2, 4, 6]


def test_jobs_that_arrive_while_a_batch_runs_are_the_next():
    sizes, go = [], threading.Event()

    def slow(jobs):
        sizes.append(len(jobs))
        go.wait(5)
        return jobs

    async def ask(batcher, _):
        first = asyncio.ensure_future(batcher.submit(0))
        while not sizes:
            await asyncio.sleep(0.001)
        others = [asyncio.ensure_future(batcher.submit(i)) for i in range(1, 6)]
        await asyncio.sleep(0.01)  # the event loop is free while the model is not
        go.set()
        return await asyncio.gather(first, *others)

    assert run(ask, run=slow, max_batch=8, max_wait=0) == list(range(6))
    assert sizes == [1, 5]


def test_a_fault_is_told_to_its_batch_alone():
    async def ask(batcher, _):
        bad = await asyncio.gather(batcher.submit(-1), batcher.submit(1), return_exceptions=True)
        return bad, await batcher.submit(3)

    bad, after = run(ask, max_batch=8, max_wait=0.01)
    assert [type(error) for error in bad] == [RuntimeError] * 2
    assert after == 6


def test_a_job_that_nobody_waits_for_is_left_out():
    async def ask(batcher, sizes):
        gone = asyncio.ensure_future(batcher.submit(1))
        kept = asyncio.ensure_future(batcher.submit(2))
        await asyncio.sleep(0)
        gone.cancel()
        return await kept, sizes

    assert run(ask, max_batch=8, max_wait=0.02) == (4, [1])


def test_stopping_cancels_what_waits():
    async def main():
        batcher = Batcher(lambda jobs: jobs, max_batch=8, max_wait=1000)
        batcher.start()
        waiting = asyncio.ensure_future(batcher.submit(1))
        await asyncio.sleep(0.01)
        await batcher.stop()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(asyncio.wait_for(main(), 5))
