"""Micro-batching: what waits goes together; who leaves is not worked for; a bad job fails alone."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from core.device.lost import DeviceLost
from tests.fakes.wait import soon
from vision.batching import MicroBatcher


class Work:
    """Doubles numbers when it is let; a negative one breaks its batch."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, jobs: Sequence[int]) -> list[int]:
        self.batches.append(list(jobs))
        self.begun.release()
        self.gate.wait(20)
        if min(jobs) < 0:
            raise ValueError("a bad job")
        return [2 * job for job in jobs]

    async def first(self, batcher: MicroBatcher[int, int]) -> "asyncio.Task[int]":
        """A job that is being worked on."""
        task = asyncio.ensure_future(batcher.run(0))
        await soon(asyncio.to_thread(self.begun.acquire, timeout=90))
        return task


async def queued(batcher: MicroBatcher[int, int], jobs: Sequence[int]) -> list["asyncio.Task[int]"]:
    tasks = [asyncio.ensure_future(batcher.run(job)) for job in jobs]
    await asyncio.sleep(0)  # each has put its job in the line
    return tasks


async def test_what_waits_goes_together_in_order_up_to_the_most() -> None:
    work = Work()
    batcher = MicroBatcher(work, 3)
    first = await work.first(batcher)
    tasks = await queued(batcher, [1, 2, 3, 4])
    work.gate.set()
    assert await soon(asyncio.gather(first, *tasks)) == [0, 2, 4, 6, 8]
    assert work.batches == [[0], [1, 2, 3], [4]]
    await soon(batcher.close())


async def test_who_leaves_is_not_worked_for() -> None:
    work = Work()
    batcher = MicroBatcher(work, 8)
    first = await work.first(batcher)
    stays, leaves, other = await queued(batcher, [1, 2, 3])
    leaves.cancel()
    await asyncio.sleep(0)
    work.gate.set()
    assert list(await soon(asyncio.gather(first, stays, other))) == [0, 2, 6]
    assert work.batches == [[0], [1, 3]]
    await soon(batcher.close())


async def test_a_bad_job_fails_alone() -> None:
    work = Work()
    batcher = MicroBatcher(work, 8)
    first = await work.first(batcher)
    tasks = await queued(batcher, [1, -1, 2])
    work.gate.set()
    good, bad, other = await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert (await first, good, other) == (0, 2, 4)
    assert isinstance(bad, ValueError)
    await soon(batcher.close())


async def test_nothing_waits_for_company_and_the_end_is_clean() -> None:
    work = Work()
    work.gate.set()
    batcher = MicroBatcher(work, 8)
    assert await soon(batcher.run(4)) == 8
    assert work.batches == [[4]]
    await soon(batcher.close())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await batcher.run(1)


async def test_a_device_that_is_lost_fails_everybody_and_ends_the_thread() -> None:
    class Lost(Work):
        def __call__(self, jobs: Sequence[int]) -> list[int]:
            super().__call__(jobs)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    work = Lost()
    batcher = MicroBatcher(work, 2)
    first = await work.first(batcher)
    tasks = await queued(batcher, [1, 2, 3])
    work.gate.set()
    errors = await soon(asyncio.gather(first, *tasks, return_exceptions=True))
    assert [getattr(error, "code", error) for error in errors] == ["device_lost"] * 4
    with pytest.raises(DeviceLost):
        await batcher.run(4)
    assert work.batches == [[0]]  # nothing else is tried
    await soon(batcher.watch())  # returns: the thread has ended, and with it the process
    await soon(batcher.close())
