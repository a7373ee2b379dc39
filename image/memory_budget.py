"""Bytes that a service may hold at once for what its callers sent: who does not fit waits in line, for so long."""

import asyncio

from core.errors import PayloadTooLarge
from core.waiting import Places

RETRY_AFTER = 5.0  # seconds


class MemoryBudget:
    """Belongs to one event loop."""

    def __init__(self, most: int, *, waiting: int, seconds: float) -> None:
        """`waiting`: most in line at once. `seconds`: the longest that one waits."""
        self.places = Places(most, waiting=waiting, seconds=seconds, code="memory_full", retry_after=RETRY_AFTER)

    async def take(self, count: int, param: str | None = None) -> "Reservation":
        """`count` bytes, once they are free. Raises PayloadTooLarge for more than there ever are, else Overloaded."""
        if count > self.places.most:
            message = f"This needs {count} bytes of memory at once; the server gives {self.places.most}."
            raise PayloadTooLarge(message, code="too_much_memory", param=param)
        await self.places.take(count)
        return Reservation(self.places, count, asyncio.get_running_loop())


class Reservation:
    """Some of the budget, until `release`. Any thread may call both methods."""

    def __init__(self, places: Places, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self._places, self._loop = places, loop
        self.count = count

    def keep(self, count: int) -> None:
        """Give back all but `count`."""
        back, self.count = self.count - count, count
        if back and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._places.give_back, back)

    def release(self) -> None:
        self.keep(0)
