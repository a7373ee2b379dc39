"""The engine as the event loop sees it: submit, iterate over events, cancel.

The loop and the engine's thread share no state: commands go in through the mailbox, news comes
back by `call_soon_threadsafe`. All bookkeeping here happens on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from core.device.lost import DeviceLost, lost_by
from core.errors import Overloaded, SoundstageError, Unavailable
from image.device import Device
from image.events import LAST, Failed
from image.generation import Generation
from image.messages import AdapterChange, Cancel, CommandQueue, Counters, Publish, Runner, Stop, Submit, TurnReport
from image.pipelines.base import Abilities
from image.request import ImageRequest, RequestId

log = logging.getLogger(__name__)


class Observer:
    """Hears what happens in an engine; this one does nothing with it."""

    def arrived(self, id: RequestId, before: int) -> None:
        """`before`: how many were waiting already."""

    def on_report(self, news: TurnReport) -> None:
        """The news of every turn."""


class AsyncEngine:
    """Owns the thread and the bounded queue."""

    def __init__(
        self,
        build: Callable[[CommandQueue, Publish], Runner],
        device: Device,
        *,
        capacity: int,
        retry_after_cap: float = 30.0,
        hang_seconds: float = 300.0,
        observer: Observer | None = None,
    ) -> None:
        """`build` runs on the engine's thread: it loads the model and warms it up. `capacity`: most images here at
        once, running or waiting. `retry_after_cap`: longest wait, in seconds, that a refused caller is told.
        `hang_seconds`: a device call that takes longer is taken for hung."""
        self.capacity = capacity
        self.counters = Counters()
        self.draining = False
        self._build = build
        self._device = device
        self._retry_after_cap = retry_after_cap
        self._hang_seconds = hang_seconds
        self._observer = observer or Observer()
        self._commands: CommandQueue = CommandQueue()
        self._generations: dict[RequestId, Generation] = {}
        self._adaptations: set[asyncio.Future[None]] = set()
        self._abilities: Abilities | None = None
        self._submitted = 0
        self._thread: threading.Thread | None = None
        self._resting = False
        self._loss: Exception | None = None
        self._lost = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Load the model and take requests. Raises what loading raises."""
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[None] = loop.create_future()

        def publish(news: TurnReport) -> None:
            loop.call_soon_threadsafe(self._deliver, news)

        def run() -> None:
            try:
                runner = self._build(self._commands, publish)
            except Exception as exc:  # noqa: BLE001 - it reaches the caller of start
                if lost_by(exc):
                    loop.call_soon_threadsafe(self._lose, exc)
                loop.call_soon_threadsafe(_settle, loaded, exc)
                return
            self._abilities = runner.abilities
            loop.call_soon_threadsafe(_settle, loaded, None)
            try:
                runner.run()
            except Exception as exc:  # noqa: BLE001 - it ends the process, see until_lost
                loop.call_soon_threadsafe(self._lose, exc)

        thread = threading.Thread(target=run, name="image-engine", daemon=True)
        thread.start()
        await loaded
        self._thread, self._resting = thread, False

    async def stop(self) -> None:
        """Fail what is left with a 503 and end the thread; a hung one is left to end with the process."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._commands.put(Stop())
        if self.hung:
            self._fail_all(_hung(self._retry_after_cap))
            return
        await asyncio.to_thread(thread.join)
        await self._idle.wait()

    async def until_lost(self) -> None:
        """Until the thread has ended by an error: nothing is drawn any more. Raises that error."""
        await self._lost.wait()
        assert self._loss is not None
        raise self._loss

    async def rest(self) -> None:
        """As stop, until the next start; a model that can be had back counts as ready."""
        self._resting = self._abilities is not None
        await self.stop()
        self.counters = replace(self.counters, running=0, remaining=0, cached_bytes=0, adapters=())

    @property
    def loaded(self) -> bool:
        return self._thread is not None

    @property
    def died(self) -> bool:
        """Its thread has ended, and nobody told it to."""
        return self._thread is not None and not self._thread.is_alive()

    @property
    def hung(self) -> bool:
        return self._device.busy_seconds > self._hang_seconds

    @property
    def ready(self) -> bool:
        return (self.loaded or self._resting) and not self.draining and not self.hung and self._loss is None

    def watch(self) -> bool:
        """Whether the device hangs; then nobody waits for it any longer. Called from time to time."""
        if self.loaded and self.hung and (self._generations or self._adaptations):
            log.critical("the device hangs", extra={"seconds": round(self._device.busy_seconds)})
            self._fail_all(_hung(self._retry_after_cap))
        return self.hung

    @property
    def abilities(self) -> Abilities:
        """Raises Unavailable while the model is not loaded."""
        if self._abilities is None:
            raise _not_ready()
        return self._abilities

    @property
    def edits(self) -> bool:
        """Whether the model is known to edit pictures."""
        return self._abilities is not None and self._abilities.pictures > 0

    async def adapt(self, name: str, *, load: bool) -> None:
        """Load an adapter into the model, or unload it. Raises InvalidRequest, NotFound, Conflict."""
        self._check_open()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._adaptations.add(done)
        self._commands.put(AdapterChange(name, load, lambda error: loop.call_soon_threadsafe(_settle, done, error)))
        try:
            await done
        finally:
            self._adaptations.discard(done)

    def submit(self, requests: Sequence[ImageRequest]) -> list[Generation]:
        """All of the requests or none. Raises Overloaded when they do not fit the queue."""
        self._check_open()
        if len(self._generations) + len(requests) > self.capacity:
            raise Overloaded(
                f"The image queue is full: it holds {self.capacity} images.",
                code="queue_full",
                retry_after=self._seconds_to_a_free_place(),
            )
        return [self._submit(request) for request in requests]

    @property
    def submitted(self) -> int:
        """Images that were ever submitted."""
        return self._submitted

    @property
    def running(self) -> int:
        """Images on the device, as of the last turn."""
        return min(self.counters.running, len(self._generations))

    @property
    def waiting(self) -> int:
        return len(self._generations) - self.running

    @property
    def progress(self) -> float:
        """The share of the steps of all images here that are taken; 0 where there is none."""
        views = [generation.view for generation in self._generations.values()]
        return sum(v.step for v in views) / max(1, sum(v.steps for v in views))

    def position(self, id: RequestId) -> int | None:
        """How many images start before this one; None once it runs or is gone."""
        generation = self._generations.get(id)
        if generation is None or generation.view.status != "queued":
            return None
        decision = self.counters.decision
        urgency = {reason.id: i for i, reason in enumerate(decision.reasons)} if decision else {}
        waiting = [i for i, g in self._generations.items() if g.view.status == "queued"]
        return sorted(waiting, key=lambda i: (urgency.get(i, len(urgency)), i)).index(id)

    async def idle(self) -> None:
        """Returns when no request is left."""
        await self._idle.wait()

    def _lose(self, error: Exception) -> None:
        log.critical("the engine's thread has ended", exc_info=error)
        self._loss = error
        self._fail_all(lost_by(error) or DeviceLost())
        self._lost.set()

    def _check_open(self) -> None:
        if self._loss is not None:
            raise DeviceLost()
        if not self.loaded:
            raise _not_ready()
        if self.draining:
            raise Unavailable("This image worker takes no more requests.", code="draining", retry_after=1)
        if self.hung:
            raise _hung(self._retry_after_cap)

    def _submit(self, request: ImageRequest) -> Generation:
        id = RequestId(self._submitted)
        self._submitted += 1
        self._observer.arrived(id, self.waiting)
        self._generations[id] = Generation(id, request, lambda: self._commands.put(Cancel(id)))
        self._idle.clear()
        self._commands.put(Submit(id, request))
        return self._generations[id]

    def _deliver(self, news: TurnReport) -> None:
        self.counters = news.counters
        self._observer.on_report(news)
        for id, event in news.events:
            if (generation := self._generations.get(id)) is None:
                continue  # it was given up while the device hung
            generation.deliver(event)
            if isinstance(event, LAST):
                del self._generations[id]
        if not self._generations:
            self._idle.set()

    def _fail_all(self, error: SoundstageError) -> None:
        for id, generation in self._generations.items():
            self._commands.put(Cancel(id))
            generation.deliver(Failed(error))
        self._generations.clear()
        for done in self._adaptations:
            _settle(done, error)
        self._idle.set()

    def _seconds_to_a_free_place(self) -> float:
        """At the measured pace, the mean time between two images that finish."""
        seconds = self.counters.remaining * self.counters.pace / max(1, len(self._generations))
        return min(max(1.0, seconds), self._retry_after_cap)


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _not_ready() -> SoundstageError:
    return Unavailable("The image engine is not ready.", code="not_ready", retry_after=2)


def _hung(retry_after: float) -> SoundstageError:
    return Unavailable("The device does not answer.", code="device_hung", retry_after=retry_after)
