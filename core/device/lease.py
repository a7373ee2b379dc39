"""One device for several workers: who has work asks for it, who has it gives it up when others wait.

    wait for work → join the line → granted: take → let requests in → others wait, and it was idle or had its turn:
    let nobody in, let those here end → give → leave the line

`take` makes the worker ready to use the device, `give` leaves nothing of it there. core/device/line.py has the line.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Gauge

from core.device.line import EXPIRY_SECONDS, Line, LineBusyError, Standing
from core.errors import Overloaded, SoundstageError, Unavailable
from core.settings import DeviceSettings, SettingsError
from core.waiting import Waiters

log = logging.getLogger(__name__)

HELD = Gauge("soundstage_device_held", "1 while this worker has the device that it shares.")
TURNS = Counter("soundstage_device_turns_total", "Times this worker was given the device.")
AWAY = Standing()
"""Not in the line: who waits in it has somebody beside him, and who does not wait has the device."""


@dataclass(frozen=True)
class Terms:
    """Seconds and numbers. `turn`: how long a busy holder lets requests in while others wait. `drain`: what those get
    to end; the rest is cut off. `idle`: a holder that has had nothing to do for so long gives it up at once. `wait`:
    longest wait of a request; `waiting`: most that wait. `poll`: between two looks at the line."""

    turn: float = 20.0
    drain: float = 300.0
    idle: float = 0.5
    wait: float = 120.0
    waiting: int = 64
    poll: float = 0.1


class DeviceLease:
    """Requests `use` the device; `run` asks for it and gives it up. Both on one event loop."""

    def __init__(
        self, line: Line, terms: Terms, take: Callable[[], Awaitable[None]], give: Callable[[], Awaitable[None]]
    ) -> None:
        """`take` may raise a SoundstageError: those who wait are told."""
        self.line, self.terms = line, terms
        self._take, self._give = take, give
        self._standing = AWAY
        self._looked = 0.0
        self._open = False
        self._opened = self._idle_since = 0.0
        self._in_flight = 0
        self._waiters = Waiters()
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[None]:
        """The device is this worker's for as long as the block runs. Raises Overloaded, Unavailable."""
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self._open:
            self._in_flight += 1
            return
        if len(self._waiters) >= self.terms.waiting:
            raise Overloaded("Too many requests wait for the device.", code="device_busy", retry_after=self.terms.turn)
        self._news.set()
        try:
            await self._waiters.wait(self.terms.wait, self._leave)
        except TimeoutError:
            raise _busy("Another worker has the device.", self.terms) from None

    def _leave(self) -> None:
        self._in_flight -= 1
        self._idle_since = self.line.clock()
        self._news.set()

    def report(self) -> dict[str, Any]:
        """For whoever asks what the worker is doing."""
        held = self._standing.granted is not None
        return {"held": held, "others": self._standing.behind, "waiting": self.waiting}

    @property
    def waiting(self) -> int:
        """Requests that wait for the device."""
        return len(self._waiters)

    async def run(self) -> None:
        """Until cancelled; then the claim ends as if this process had, and no later than its children."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                while True:
                    await self._until(lambda: bool(self._waiters))
                    await self._turn()
        finally:
            self._open = False
            self._waiters.refuse(_busy("The worker is stopping.", self.terms))
            self.line.close()
            HELD.set(0)

    async def _turn(self) -> None:
        """From asking for the device to being without it again."""
        await self._at_the_line(self.line.join)
        await self._until(lambda: self._standing.granted is not None or self._standing.lost or not self._waiters)
        if self._standing.granted is not None:
            HELD.set(1)
            TURNS.inc()
            await self._hold()
            HELD.set(0)
        await self._at_the_line(self.line.leave)

    async def _hold(self) -> None:
        try:
            await self._take()
        except SoundstageError as exc:
            log.error("the device could not be used", extra={"reason": exc.message})
            self._waiters.refuse(exc)
        else:
            self._open, self._opened, self._idle_since = True, self.line.clock(), self.line.clock()
            self._in_flight += self._waiters.let_all_in()
            await self._until(self._is_over)
            self._open = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.terms.drain):
                    await self._until(lambda: not self._in_flight or self._standing.lost)
        await self._give()

    def _is_over(self) -> bool:
        now = self.line.clock()
        idle = not self._in_flight and now - self._idle_since >= self.terms.idle
        return self._standing.lost or (self._standing.behind > 0 and (idle or now - self._opened >= self.terms.turn))

    # -- the line -------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Renew the claim, whatever else goes on. One that cannot be renewed is lost when it must have expired."""
        while True:
            await asyncio.sleep(self.terms.poll)
            if self._standing is AWAY:
                continue
            try:
                self._saw(self.line.look())
            except LineBusyError as exc:
                if self.line.clock() - self._looked > EXPIRY_SECONDS:
                    log.error("the device's line cannot be read", extra={"reason": exc})
                    self._saw(Standing(lost=True))

    async def _at_the_line(self, act: Callable[[], Standing | None]) -> None:
        while True:
            try:
                self._saw(act() or AWAY)
                return
            except LineBusyError:
                await asyncio.sleep(self.terms.poll / 10)

    def _saw(self, standing: Standing) -> None:
        self._standing, self._looked = standing, self.line.clock()
        self._news.set()

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            self._news.clear()
            await self._news.wait()


def line_of(settings: DeviceSettings, name: str) -> Line | None:
    """A worker's place in the line of its device; None where it has the device to itself. Raises SettingsError."""
    if settings.device_lease is None:
        return None
    try:
        return Line(settings.device_lease, name)
    except OSError as exc:
        raise SettingsError(f"DEVICE_LEASE: {settings.device_lease}: {exc.strerror}") from exc


def terms_of(settings: DeviceSettings, waiting: int) -> Terms:
    return Terms(
        turn=settings.device_lease_seconds,
        drain=settings.device_lease_drain_seconds,
        wait=settings.device_lease_wait_seconds,
        waiting=waiting,
    )


def _busy(message: str, terms: Terms) -> Unavailable:
    return Unavailable(message, code="device_busy", retry_after=terms.turn)
