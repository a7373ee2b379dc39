"""How many requests run at once, and how many may wait for a place: bounded in number and in time."""

import asyncio
import time
from collections import deque
from types import TracebackType

from core.errors import Overloaded

FIRST_GUESS_SECONDS = 2.0
SMOOTHING = 0.1
LONGEST_RETRY_SECONDS = 30.0


class Gate:
    """`async with gate:` holds one of `most` places. Waiting ones come in order. Raises Overloaded when the queue is
    full, or a place was not free within `seconds`."""

    def __init__(self, most: int, queue: int, seconds: float) -> None:
        self.most, self.queue = most, queue
        self.running = 0
        self._seconds = seconds
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean = FIRST_GUESS_SECONDS
        self._began: dict[asyncio.Task[object], float] = {}

    @property
    def waiting(self) -> int:
        return sum(not waiter.done() for waiter in self._waiting)

    async def __aenter__(self) -> None:
        if self.running < self.most and not self.waiting:
            self.running += 1
        elif self.waiting >= self.queue:
            raise self._full("The queue is full.")
        else:
            await self._wait()
        task = asyncio.current_task()
        assert task is not None
        self._began[task] = time.monotonic()

    async def __aexit__(self, kind: type[BaseException] | None, exc: object, trace: TracebackType | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._mean += SMOOTHING * (time.monotonic() - self._began.pop(task) - self._mean)
        self._leave()

    async def _wait(self) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(self._seconds):
                await place
        except BaseException as exc:
            if place.done() and not place.cancelled():
                self._leave()  # it was given a place in the same moment
            place.cancel()
            if isinstance(exc, TimeoutError):
                raise self._full("No place was free in time.") from None
            raise

    def _leave(self) -> None:
        """Hand the place to the next one that waits."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1

    def _full(self, why: str) -> Overloaded:
        wait = self._mean * (self.waiting + 1) / self.most
        return Overloaded(
            f"{why} This worker answers {self.most} at once and lets {self.queue} wait.",
            code="worker_full",
            retry_after=min(max(1.0, wait), LONGEST_RETRY_SECONDS),
        )
