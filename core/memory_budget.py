"""Bytes that a service may hold at once for what its callers sent: who does not fit waits in line, for so long."""

import asyncio
from collections import deque
from dataclasses import dataclass

from core.errors import Overloaded, PayloadTooLarge

RETRY_AFTER = 5.0  # seconds


class MemoryBudget:
    """Belongs to one event loop. First come, first served: a large one is not passed by small ones for ever."""

    def __init__(self, most: int, *, waiting: int, seconds: float) -> None:
        """`waiting`: most in line at once. `seconds`: the longest that one waits."""
        self.most = most
        self.held = 0
        self._waiting = waiting
        self._seconds = seconds
        self._line: deque[_Place] = deque()

    @property
    def in_line(self) -> int:
        return len(self._line)

    async def take(self, count: int, param: str | None = None) -> "Reservation":
        """`count` bytes, once they are free. Raises PayloadTooLarge for more than there ever are, else Overloaded."""
        if count > self.most:
            message = f"This needs {count} bytes of memory at once; the server gives {self.most}."
            raise PayloadTooLarge(message, code="too_much_memory", param=param)
        if self._line or self.held + count > self.most:
            await self._wait(count)
        else:
            self.held += count
        return Reservation(self, count, asyncio.get_running_loop())

    async def _wait(self, count: int) -> None:
        if len(self._line) >= self._waiting:
            raise _full()
        place = _Place(count, asyncio.get_running_loop().create_future())
        self._line.append(place)
        try:
            async with asyncio.timeout(self._seconds):
                await place.turn
        except BaseException as exc:
            if place.turn.done() and not place.turn.cancelled():
                self.give_back(count)  # it came as the wait ended
            else:
                self._line.remove(place)
                self.give_back(0)  # who stands behind may fit
            if isinstance(exc, TimeoutError):
                raise _full() from None
            raise

    def give_back(self, count: int) -> None:
        self.held -= count
        while self._line and self.held + self._line[0].count <= self.most:
            place = self._line.popleft()
            self.held += place.count
            if place.turn.cancelled():
                self.held -= place.count
            else:
                place.turn.set_result(None)


@dataclass(frozen=True, eq=False)
class _Place:
    count: int
    turn: "asyncio.Future[None]"


class Reservation:
    """Some of the budget, until `release`. Any thread may call both methods."""

    def __init__(self, budget: MemoryBudget, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self._budget = budget
        self._loop = loop
        self.count = count

    def keep(self, count: int) -> None:
        """Give back all but `count`."""
        back, self.count = self.count - count, count
        if back and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._budget.give_back, back)

    def release(self) -> None:
        self.keep(0)


def _full() -> Overloaded:
    return Overloaded("Too many pictures are held at once.", code="memory_full", retry_after=RETRY_AFTER)
