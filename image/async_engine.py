"""The engine as the event loop sees it: submit, iterate over events, cancel.

The loop and the engine's thread share no state: commands go in through the mailbox, news comes
back by `call_soon_threadsafe`. All bookkeeping here happens on the loop's thread.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence

from core.errors import Overloaded, Unavailable
from image.engine import Cancel, Command, Counters, Engine, News, Stop, Submit
from image.events import LAST
from image.generation import Generation
from image.pipelines.base import StepPipeline
from image.request import ImageRequest, RequestId
from image.scheduler import Budget


class AsyncEngine:
    """Owns the thread and the bounded queue."""

    def __init__(
        self,
        load: Callable[[], StepPipeline],
        budget: Budget,
        *,
        capacity: int,
        retry_after_cap: float = 30.0,
        observe: Callable[[News], None] = lambda news: None,
    ) -> None:
        """`load` runs on the engine's thread. `capacity`: most images here at once, running or
        waiting. `retry_after_cap`: longest wait, in seconds, that a refused caller is told. `observe` sees the
        news of every turn."""
        self.capacity = capacity
        self.counters = Counters()
        self._load = load
        self._budget = budget
        self._retry_after_cap = retry_after_cap
        self._observe = observe
        self._mail: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._generations: dict[RequestId, Generation] = {}
        self._submitted = 0
        self._thread: threading.Thread | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Load the model and take requests. Raises what loading raises."""
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[None] = loop.create_future()

        def publish(news: News) -> None:
            loop.call_soon_threadsafe(self._deliver, news)

        def run() -> None:
            try:
                engine = Engine(self._load(), self._budget, self._mail, publish)
            except Exception as exc:  # noqa: BLE001 - it reaches the caller of start
                loop.call_soon_threadsafe(_settle, loaded, exc)
                return
            loop.call_soon_threadsafe(_settle, loaded, None)
            engine.run()

        thread = threading.Thread(target=run, name="image-engine", daemon=True)
        thread.start()
        await loaded
        self._thread = thread

    async def stop(self) -> None:
        """Fail what is left with a 503 and end the thread."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._mail.put(Stop())
        await asyncio.to_thread(thread.join)
        await self._idle.wait()

    @property
    def ready(self) -> bool:
        return self._thread is not None

    def submit(self, requests: Sequence[ImageRequest]) -> list[Generation]:
        """All of the requests or none. Raises Overloaded when they do not fit the queue."""
        if self._thread is None:
            raise Unavailable("The image engine is not ready.", code="not_ready", retry_after=2)
        if len(self._generations) + len(requests) > self.capacity:
            raise Overloaded(
                f"The image queue is full: it holds {self.capacity} images.",
                code="queue_full",
                retry_after=self._seconds_to_a_free_place(),
            )
        return [self._submit(request) for request in requests]

    @property
    def running(self) -> int:
        """Images on the device, as of the last turn."""
        return min(self.counters.running, len(self._generations))

    @property
    def waiting(self) -> int:
        return len(self._generations) - self.running

    async def idle(self) -> None:
        """Returns when no request is left."""
        await self._idle.wait()

    def _submit(self, request: ImageRequest) -> Generation:
        id = RequestId(self._submitted)
        self._submitted += 1
        self._generations[id] = Generation(request, lambda: self._mail.put(Cancel(id)))
        self._idle.clear()
        self._mail.put(Submit(id, request))
        return self._generations[id]

    def _deliver(self, news: News) -> None:
        self.counters = news.counters
        self._observe(news)
        for id, event in news.events:
            self._generations[id].deliver(event)
            if isinstance(event, LAST):
                del self._generations[id]
        if not self._generations:
            self._idle.set()

    def _seconds_to_a_free_place(self) -> float:
        """At the measured pace, the mean time between two images that finish."""
        seconds = self.counters.remaining * self.counters.pace / max(1, len(self._generations))
        return min(max(1.0, seconds), self._retry_after_cap)


def _settle(loaded: asyncio.Future[None], error: Exception | None) -> None:
    if loaded.cancelled():
        return
    if error is None:
        loaded.set_result(None)
    else:
        loaded.set_exception(error)
