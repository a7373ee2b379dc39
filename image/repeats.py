"""The same request again, by its `Idempotency-Key`: what is being drawn is joined, what was drawn is given again.

Kept are pixels, not files: who asks again gets a file that names their own run. In memory alone, and bounded in number,
bytes and age; what failed is not kept. A caller's tenant is part of the key.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal

from prometheus_client import Counter, Gauge

from core.errors import Unavailable
from core.keyed_calls import Bounds, KeyedCalls, Name
from image.events import Cancelled, Finished
from image.generation import Generation

CALLED_OFF_SECONDS, MOST_CALLED_OFF = 10.0, 1000
REPEATS = Counter("soundstage_image_repeats_total", "Calls that were asked before under their key.", ["found"])
KEPT = Gauge("soundstage_image_repeats_bytes", "Pixels kept of calls that may be asked for again.")

Draw = Callable[[], AbstractAsyncContextManager[list[Generation]]]
"""Submits a call's images; leaving the block takes out what has not ended."""


@dataclass(frozen=True, slots=True)
class RepeatableCall:
    """A call that may come again. `sha256`: of all that it asks for. `wait`: seconds that its images are drawn on when
    nobody who asked is there any more."""

    tenant: str
    key: str
    sha256: str
    wait: float = 0.0

    @property
    def name(self) -> Name:
        return self.tenant, self.key


class RunningCall:
    """The images of one call, drawn by a task of their own, and how many wait for them. Where the task ends before it
    has begun, whoever made the call says so in `begun`."""

    def __init__(self, sha256: str, draw: Draw) -> None:
        self.sha256 = sha256
        self.listeners = 0
        self.begun: asyncio.Future[Sequence[Generation]] = asyncio.get_running_loop().create_future()
        self.begun.add_done_callback(lambda begun: begun.exception())  # it may be that nobody is left to be told
        self.drawing = asyncio.create_task(self._draw(draw))

    async def _draw(self, draw: Draw) -> None:
        images: Sequence[Generation] = ()
        try:
            async with draw() as images:
                self.begun.set_result(images)
                for image in images:
                    async for _ in image:
                        pass
        finally:
            for image in images:
                image.deliver(Cancelled())  # to those that have not ended

    @property
    def over(self) -> bool:
        """Whether nothing is left to draw."""
        if not self.begun.done() or self.begun.exception():
            return self.drawing.done()
        return all(image.last for image in self.begun.result())

    @property
    def may_be_kept(self) -> bool:
        """Whether every image of it was drawn, and none from a picture: what somebody sent is not kept."""
        if self.drawing.cancelled() or self.drawing.exception() or self.begun.exception():
            return False
        images = self.begun.result()
        return all(isinstance(image.last, Finished) and image.request.source is None for image in images)


class Repeats:
    """Calls with keys: those that are drawn now, and those that were. Belongs to the event loop."""

    def __init__(self, bounds: Bounds) -> None:
        self._longest = bounds.seconds
        self._calls = KeyedCalls[RunningCall](bounds)
        self._called_off: set[Name] = set()
        KEPT.set_function(lambda: self._calls.bytes)

    @contextlib.asynccontextmanager
    async def joined(self, asked: RepeatableCall, draw: Draw) -> AsyncIterator[Sequence[Generation]]:
        """The images of this call, drawn now, already, or before. Who leaves last before they are done ends them, at
        once or after `asked.wait`. Raises Conflict where the key was used for something else, and what `draw` raises.
        """
        call = self._find(asked) or self._begun(asked, draw)
        call.listeners += 1
        try:
            yield await asyncio.shield(call.begun)
        finally:
            call.listeners -= 1
            if not call.listeners and not call.over:
                self._left(call, asked.wait)

    def status(self, tenant: str, key: str) -> Literal["running", "finished"] | None:
        """What is here under this key."""
        running = self._calls.running.get((tenant, key))
        if running is not None:
            return None if running.drawing.cancelling() else "running"
        return "finished" if self._calls.answered((tenant, key)) is not None else None

    def cancel(self, tenant: str, key: str) -> bool:
        """End what is drawn under this key, whoever waits for it; whether there was anything to end. What is not here
        yet is on its way: it is refused when it comes."""
        name = (tenant, key)
        if (running := self._calls.running.get(name)) is not None:
            return running.drawing.cancel()
        if len(self._called_off) < MOST_CALLED_OFF:
            self._called_off.add(name)
            asyncio.get_running_loop().call_later(CALLED_OFF_SECONDS, self._called_off.discard, name)
        return False

    def _find(self, asked: RepeatableCall) -> RunningCall | None:
        running = self._calls.running.get(asked.name)
        if running is not None and running.drawing.cancelling():
            return None  # nobody was left, and it has not ended yet
        call = self._calls.find(asked.name, asked.sha256)
        if call is not None:
            REPEATS.labels("running" if running else "finished").inc()
        elif asked.name in self._called_off:
            raise _cancelled()
        return call

    def _begun(self, asked: RepeatableCall, draw: Draw) -> RunningCall:
        call = self._calls.running[asked.name] = RunningCall(asked.sha256, draw)
        call.drawing.add_done_callback(lambda _: self._ended(asked.name, call))
        return call

    def _left(self, call: RunningCall, wait: float) -> None:
        def if_nobody_came() -> None:
            if not call.listeners:
                call.drawing.cancel()

        if wait:
            asyncio.get_running_loop().call_later(min(wait, self._longest), if_nobody_came)
        else:
            call.drawing.cancel()

    def _ended(self, name: Name, call: RunningCall) -> None:
        self._calls.end(name, call)
        if not call.begun.done():
            refused = None if call.drawing.cancelled() else call.drawing.exception()
            call.begun.set_exception(refused or _cancelled())
        elif call.may_be_kept:
            self._calls.keep(name, call, sum(image.bytes for image in call.begun.result()))


def _cancelled() -> Unavailable:
    return Unavailable("The request was cancelled.", code="cancelled")
