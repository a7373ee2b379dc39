"""The caller's end of one image in the engine."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from core.errors import Unavailable
from image.events import LAST, Admitted, Cancelled, Event, Failed, Finished, Progress
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
    """An async iterator of events that ends after the last one. Belongs to the event loop's thread. Whoever stops
    listening before the end calls `cancel`."""

    def __init__(self, id: RequestId, request: ImageRequest, cancel: Callable[[], None]) -> None:
        self.id = id
        self.request = request
        self.view = View(request.own_steps)
        self._cancel = cancel
        # Bounded by what one request can tell: its steps, its previews and its end.
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._ended = False

    def deliver(self, event: Event) -> None:
        self._ended = isinstance(event, LAST)
        self.view.follow(event)
        self._events.put_nowait(event)

    def cancel(self) -> None:
        """Take no further step; nothing happens to an image that is done."""
        if not self._ended:
            self._cancel()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, LAST):
                return

    async def result(self) -> Finished:
        """Wait for the image. Raises the error of a request that failed or was cancelled."""
        return await last_of(self)


async def last_of(events: AsyncIterable[Event]) -> Finished:
    """The image at the end of its events. Raises the error of a request that failed or was cancelled."""
    async for event in events:
        if isinstance(event, LAST):
            return finished(event)
    raise AssertionError("the events ended without a last one")


def finished(event: Finished | Failed | Cancelled) -> Finished:
    """Raises what a last event that is not the image stands for."""
    match event:
        case Finished():
            return event
        case Failed(error):
            raise error
        case Cancelled():
            raise Unavailable("The request was cancelled.", code="cancelled")
