"""A bounded place for work on the CPU: so many at once, so many waiting, and 429 beyond that."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from core.errors import Overloaded
from vision import metrics

T = TypeVar("T")

FIRST_GUESS = 0.2  # seconds a piece of work takes, before any was measured
MEMORY = 0.9  # weight of the past in the running mean
MAX_RETRY_AFTER = 30.0  # seconds


class WorkPool:
    """Belongs to one event loop. A thread that is free takes the next in line; who leaves the line costs nothing."""

    def __init__(self, threads: int, waiting: int) -> None:
        self.capacity = threads + waiting
        self.taken = 0
        self._threads = threads
        self._free = asyncio.Semaphore(threads)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="vision")
        self._mean_seconds = FIRST_GUESS

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places, from before the upload is read until the answer is made. Raises Overloaded."""
        if self.taken >= self.capacity:
            wait = min(MAX_RETRY_AFTER, self._mean_seconds * self.taken / self._threads)
            raise Overloaded("The worker's queue is full.", code="queue_full", retry_after=wait)
        self.taken += 1
        metrics.PLACES.set(self.taken)
        try:
            yield
        finally:
            self.taken -= 1
            metrics.PLACES.set(self.taken)

    async def run(self, work: Callable[[threading.Event], T]) -> T:
        """Run `work` in a thread. If the caller is cancelled, work that waits never starts and `stop` is set for
        work that runs; its thread counts as busy until it has really ended.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        stop = threading.Event()
        future = self._executor.submit(self._timed, work, stop)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))
        try:
            return await asyncio.wrap_future(future)
        finally:
            stop.set()

    def _timed(self, work: Callable[[threading.Event], T], stop: threading.Event) -> T:
        started = time.perf_counter()
        try:
            return work(stop)
        finally:
            seconds = time.perf_counter() - started
            metrics.WORK_SECONDS.observe(seconds)
            self._mean_seconds = MEMORY * self._mean_seconds + (1 - MEMORY) * seconds

    async def close(self) -> None:
        """Wait for what runs."""
        await asyncio.to_thread(self._executor.shutdown)
