"""Waiting in line: in order, bounded in number and in time. Nothing is lost when somebody leaves."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from core.errors import Overloaded, SoundstageError

FIRST_GUESS_SECONDS = 2.0  # that a place is held, before any was measured
SMOOTHING = 0.1
LONGEST_RETRY_SECONDS = 30.0


class Waiters:
    """A line of tasks, each with a size. Belongs to one event loop; its owner lets them in or refuses them."""

    def __init__(self) -> None:
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __len__(self) -> int:
        return len(self._line)

    @property
    def next_size(self) -> int:
        return self._line[0][0]

    async def wait(self, seconds: float, give_back: Callable[[], object], size: int = 1) -> None:
        """Until it is let in. Raises TimeoutError, and what it is refused with. `give_back` is called for one that
        leaves in the moment in which it is let in."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((size, turn))
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException:
            if (size, turn) in self._line:
                self._line.remove((size, turn))
            elif not turn.cancelled() and turn.exception() is None:
                give_back()
            raise

    def let_in(self) -> bool:
        """The first; whether it was still there."""
        turn = self._line.popleft()[1]
        if turn.done():
            return False
        turn.set_result(None)
        return True

    def let_all_in(self) -> int:
        """How many there were."""
        return sum(self.let_in() for _ in range(len(self._line)))

    def refuse(self, error: SoundstageError) -> None:
        """All of them."""
        while self._line:
            turn = self._line.popleft()[1]
            if not turn.done():
                turn.set_exception(error)


class Places:
    """So many at once: requests, or bytes. First come, first served: no small one passes a large one."""

    def __init__(self, most: int, *, waiting: int, seconds: float, code: str, retry_after: float | None = None) -> None:
        """`waiting`: most in line. `seconds`: longest wait. `code`: of the Overloaded that is raised beyond either.
        `retry_after` in seconds; None: by how long places are held."""
        self.most, self.taken = most, 0
        self._waiting, self._seconds, self._code, self._retry_after = waiting, seconds, code, retry_after
        self._line = Waiters()
        self._mean = FIRST_GUESS_SECONDS

    @property
    def in_line(self) -> int:
        return len(self._line)

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """One place, for as long as the block runs. Raises Overloaded."""
        await self.take()
        began = time.monotonic()
        try:
            yield
        finally:
            self._mean += SMOOTHING * (time.monotonic() - began - self._mean)
            self.give_back()

    async def take(self, count: int = 1) -> None:
        """Whoever took them gives them back. Raises Overloaded."""
        if not self._line and self.taken + count <= self.most:
            self.taken += count
            return
        if len(self._line) >= self._waiting:
            raise self._full("The queue is full.")
        try:
            await self._line.wait(self._seconds, lambda: self.give_back(count), count)
        except TimeoutError:
            raise self._full("No place was free in time.") from None
        finally:
            self.give_back(0)  # where this one left, who stands behind may fit

    def give_back(self, count: int = 1) -> None:
        self.taken -= count
        while self._line and self.taken + self._line.next_size <= self.most:
            size = self._line.next_size
            self.taken += size * self._line.let_in()

    def _full(self, why: str) -> Overloaded:
        measured = min(max(1.0, self._mean * (len(self._line) + 1) / self.most), LONGEST_RETRY_SECONDS)
        wait = measured if self._retry_after is None else self._retry_after
        return Overloaded(f"{why} This worker is at its limit.", code=self._code, retry_after=wait)
