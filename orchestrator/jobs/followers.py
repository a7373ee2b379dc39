"""Who follows runs, and what wakes them: events that this process kept, and the database's word of all others."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterator

from core.db.errors import DATABASE_AWAY
from orchestrator.jobs.store import EVENTS, JobStore
from orchestrator.pipelines.flow import Event

LOOK_SECONDS = 1.0  # a follower looks this often in case a notification was lost
LAST = frozenset(("pipeline.completed", "error"))


class _Follower:
    """Who follows a run, and what happened in it since it last looked."""

    def __init__(self, *, look: bool = True) -> None:
        self.woken = asyncio.Event()
        self.look = look  # in the database: there may be events that nobody brought here
        self._news: deque[Event] = deque()

    def happened(self, event: Event) -> None:
        if len(self._news) >= EVENTS:  # its client is slow: it reads them when it comes to it
            self._news.clear()
        self._news.append(event)
        self.woken.set()

    def wake(self) -> None:
        self.look = True
        self.woken.set()

    def next(self, after: int) -> list[Event]:
        """What follows on `after`; where something is missing before it, it has to look."""
        events = []
        while self._news:
            event = self._news.popleft()
            if event.number > after + 1:
                self._news.clear()
                self.look = True
            elif event.number == after + 1:
                events.append(event)
                after += 1
        return events


class Followers:
    """Those who follow runs at this process."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._followers: dict[str, set[_Follower]] = {}
        self._expected: dict[str, _Follower] = {}

    def expect(self, job_id: str) -> None:
        """A run begins here, and somebody will follow it: they need not look for what was before."""
        self._expected[job_id] = _Follower(look=False)

    def over(self, job_id: str) -> None:
        """A run is no more here: who follows it only now looks."""
        self._expected.pop(job_id, None)

    def happened(self, job_id: str, event: Event) -> None:
        """It was kept by this process."""
        for follower in self._followers.get(job_id, ()):
            follower.happened(event)
        if job_id in self._expected:
            self._expected[job_id].happened(event)

    def wake(self, job_id: str) -> None:
        """Something of it was kept somewhere."""
        for follower in self._followers.get(job_id, ()):
            follower.wake()

    def wake_all(self) -> None:
        for job_id in self._followers:
            self.wake(job_id)

    @contextlib.contextmanager
    def _following(self, job_id: str) -> Iterator[_Follower]:
        follower = self._expected.pop(job_id, None) or _Follower()
        self._followers.setdefault(job_id, set()).add(follower)
        try:
            yield follower
        finally:
            self._followers[job_id].discard(follower)
            if not self._followers[job_id]:
                del self._followers[job_id]

    async def follow(self, job_id: str, after: int, heartbeat: float) -> AsyncGenerator[Event | None, None]:
        """Each event after that number once, in order, up to the last; None where nothing came for `heartbeat` s.

        Ends with the run's last event. While the database is away it waits.
        """
        loop = asyncio.get_running_loop()
        last = loop.time()
        with self._following(job_id) as follower:
            while True:
                follower.woken.clear()
                for event in await self._next(follower, job_id, after):
                    after, last = event.number, loop.time()
                    yield event
                    if event.name in LAST:
                        return
                    follower.woken.set()  # there may be more
                if not follower.woken.is_set():
                    try:
                        async with asyncio.timeout(LOOK_SECONDS):
                            await follower.woken.wait()
                    except TimeoutError:
                        follower.look = True
                if loop.time() - last >= heartbeat:
                    last = loop.time()
                    yield None

    async def _next(self, follower: _Follower, job_id: str, after: int) -> list[Event]:
        events = follower.next(after)
        if events or not follower.look:
            return events
        follower.look = False
        try:
            rows = await self._store.events(job_id, after)
        except DATABASE_AWAY:
            return []
        follower.look = len(rows) == EVENTS
        return [Event(row["number"], row["name"], row["data"]) for row in rows]
