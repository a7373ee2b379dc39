"""The caller's end of one image in the engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from core.errors import Unavailable
from image.events import LAST, Admitted, Cancelled, Event, Failed, Finished, Partial, Progress
from image.request import ImageRequest, RequestId

Status = Literal["queued", "running", "completed", "failed", "cancelled"]


@dataclass(slots=True)
class View:
    """How far an image is; outlives its events."""

    steps: int
    status: Status = "queued"
    step: int = 0
    error: str | None = None  # its code

    def follow(self, event: Event) -> None:
        match event:
            case Admitted():
                self.status = "running"
            case Progress(step, _):
                self.status, self.step = "running", step
            case Finished():
                self.status = "completed"
            case Failed(error):
                self.status, self.error = "failed", error.code
            case Cancelled():
                self.status = "cancelled"


class Generation:
    """One image's events, from the first on, for any number of listeners. Belongs to the event loop's thread. Whoever
    stops listening before the end calls `cancel`."""

    def __init__(self, id: RequestId, request: ImageRequest, cancel: Callable[[], None]) -> None:
        self.id = id
        self.request = request
        self.view = View(request.own_steps)
        self._cancel = cancel
        self._events: list[Event] = []  # that it was admitted, its previews and its end
        self._news = asyncio.Event()

    def deliver(self, event: Event) -> None:
        """Nothing comes after the last."""
        if self.last is not None:
            return
        self.view.follow(event)
        if not isinstance(event, Progress):
            self._events.append(event)
            self._news.set()  # who waits looks now; the next news is another one
            self._news = asyncio.Event()

    def cancel(self) -> None:
        """Take no further step; nothing happens to an image that is done."""
        if self.last is None:
            self._cancel()

    @property
    def last(self) -> Finished | Failed | Cancelled | None:
        """How it ended; None where it has not."""
        last = self._events[-1] if self._events else None
        return last if isinstance(last, LAST) else None

    @property
    def bytes(self) -> int:
        """Of its pictures."""
        return sum(len(event.pixels.rgb) for event in self._events if isinstance(event, Finished | Partial))

    async def __aiter__(self) -> AsyncIterator[Event]:
        at = 0
        while not at or not isinstance(self._events[at - 1], LAST):
            while at == len(self._events):
                await self._news.wait()
            yield self._events[at]
            at += 1

    async def result(self) -> Finished:
        """Wait for the image. Raises the error of a request that failed or was cancelled."""
        while self.last is None:
            await self._news.wait()
        return finished(self.last)


def finished(event: Finished | Failed | Cancelled) -> Finished:
    """Raises what a last event that is not the image stands for."""
    match event:
        case Finished():
            return event
        case Failed(error):
            raise error
        case Cancelled():
            raise Unavailable("The request was cancelled.", code="cancelled")
