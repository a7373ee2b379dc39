"""The caller's end of one image in the engine."""

import asyncio
from collections.abc import AsyncIterator, Callable

from core.errors import Unavailable
from image.events import LAST, Cancelled, Event, Failed, Finished
from image.request import ImageRequest


class Generation:
    """An async iterator of events that ends after the last one. Belongs to the event loop's thread.

    Whoever stops listening before the end calls `cancel`.
    """

    def __init__(self, request: ImageRequest, cancel: Callable[[], None]) -> None:
        self.request = request
        self._cancel = cancel
        # Bounded by what one request can tell: its steps, its previews and its end.
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._ended = False

    def deliver(self, event: Event) -> None:
        self._ended = isinstance(event, LAST)
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
        async for event in self:
            match event:
                case Finished():
                    return event
                case Failed(error):
                    raise error
                case Cancelled():
                    break
        raise Unavailable("The request was cancelled.", code="cancelled")
