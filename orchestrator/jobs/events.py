"""What runs do: kept in batches, many runs at once, and then shown to whoever follows, on any orchestrator.

An event is shown only when it is kept, so nobody sees one that a crash then takes back.
"""

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from prometheus_client import Counter
from psycopg.types.json import Json

from core.db.connection import connect, listener
from core.db.errors import DATABASE_AWAY, is_refusal
from core.errors import SoundstageError, internal
from orchestrator.jobs.store import EVENTS, JobStore, sealed_end
from orchestrator.operate.seal import Seal
from orchestrator.pipelines.flow import Event

log = logging.getLogger(__name__)

BATCH = 200
MAX_WAITING = 2_000
RETRY_SECONDS = 0.5
LOOK_SECONDS = 1.0  # a follower looks this often in case a notification was lost
REFUSED = Counter("soundstage_events_refused_total", "Events of runs that the database refused; their runs fail.")
LAST = frozenset(("pipeline.completed", "error"))


class Told(NamedTuple):
    """Something that a run did, on its way to the database. `attempt`: how often the run was begun; `key` names it
    within its run; `end` is there with the last: how the run ended."""

    job: str
    attempt: int
    key: str
    name: str
    data: Mapping[str, Any]
    end: Mapping[str, Any] | None = None

    def sent(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value is not None}


Kept = asyncio.Future[int | None]
"""An event's number once it is kept; None where it is not: its run has ended, or is another process's now. It raises
where the database refused the event."""


class Teller:
    """Takes what runs do at once and keeps it soon, in its order. One for each process, with a connection of its own:
    what is done waits for nobody who only reads."""

    def __init__(self, dsn: str, hub: "Hub", seal: Seal) -> None:
        self._dsn = dsn
        self._hub = hub
        self._seal = seal
        self._waiting: deque[tuple[Told, Kept]] = deque()
        self._wake = asyncio.Event()
        self._written = asyncio.Condition()

    async def tell(self, told: Told) -> Kept:
        """Waits only where much is waiting: a database that is away slows the pipelines, and costs no memory."""
        while len(self._waiting) >= MAX_WAITING:
            async with self._written:
                await self._written.wait()
        kept: Kept = asyncio.get_running_loop().create_future()
        self._waiting.append((told, kept))
        self._wake.set()
        return kept

    async def write(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with await connect(self._dsn) as connection:
                    while True:
                        await self._wake.wait()
                        self._wake.clear()
                        while self._waiting:
                            await self._batch(connection)
            except DATABASE_AWAY as exc:
                log.warning("events not kept; trying again", extra={"waiting": len(self._waiting), "reason": exc})
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()

    async def _batch(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Keep what waits longest, in one statement: one commit for all runs that did something meanwhile."""
        batch = sorted(itertools.islice(self._waiting, BATCH), key=lambda one: one[0].job)
        numbers: Sequence[int | SoundstageError | None]
        try:
            numbers = await self._insert(connection, [one for one, _ in batch])
        except Exception as exc:
            if not is_refusal(exc):
                raise
            numbers = [await self._insert_alone(connection, one) for one, _ in batch]
        for _ in batch:
            self._waiting.popleft()
        for (one, kept), number in zip(batch, numbers, strict=True):
            if isinstance(number, int):
                self._hub.happened(one.job, Event(number, one.name, one.data))
            if kept.done():  # who waited for it may have been cancelled
                continue
            if isinstance(number, Exception):
                kept.set_exception(number)
                kept.exception()  # not every event is waited for
            else:
                kept.set_result(number)
        async with self._written:
            self._written.notify_all()

    async def _insert(self, connection: psycopg.AsyncConnection[Any], events: list[Told]) -> list[int | None]:
        sent = Json([self._sealed(one) for one in events])
        row = await (await connection.execute("select keep_events(%s::json) as numbers", (sent,))).fetchone()
        assert row is not None
        return list(row["numbers"])

    def _sealed(self, event: Told) -> dict[str, Any]:
        sent = {**event.sent(), "data": self._seal.wrap(event.data, event.job)}
        return sent if event.end is None else {**sent, "end": sealed_end(self._seal, event.job, event.end)}

    async def _insert_alone(
        self, connection: psycopg.AsyncConnection[Any], event: Told
    ) -> int | SoundstageError | None:
        """Its number, or what its run is told where the database refuses it: its neighbours are kept all the same."""
        try:
            return (await self._insert(connection, [event]))[0]
        except Exception as exc:
            if not is_refusal(exc):
                raise
            REFUSED.inc()
            what = {"job": event.job, "event": event.name, "reason": str(exc)[:300]}
            log.error("an event was refused by the database", extra=what)
            return internal()


class Ear:
    """Hears of events and ends that others kept. `here` says of which runs this orchestrator knows all by itself."""

    def __init__(self, dsn: str, hub: "Hub", ended: Callable[[str], None], here: Callable[[str], object]) -> None:
        self._dsn = dsn
        self._hub = hub
        self._ended = ended
        self._here = here

    async def listen(self) -> None:
        """Until cancelled. While the connection is broken, who follows looks by themselves."""
        while True:
            with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
                async with await listener(self._dsn) as connection:
                    await connection.execute("listen soundstage_jobs")
                    self._hub.wake_all()  # what happened before was not heard
                    async for heard in connection.notifies():
                        self._hear(heard.payload)
            await asyncio.sleep(RETRY_SECONDS)

    def _hear(self, said: str) -> None:
        job_id = said.removeprefix("ended ")
        if job_id != said:
            self._ended(job_id)
            self._hub.wake(job_id)
        elif not self._here(job_id):
            self._hub.wake(job_id)


class _Follower:
    """Who follows a run, and what it was told of since it last looked."""

    def __init__(self, *, look: bool = True) -> None:
        self.woken = asyncio.Event()
        self.look = look  # in the database: there may be events that were not told here
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
        """What it was told that follows on `after`; where something is missing before it, it has to look."""
        found = []
        while self._news:
            event = self._news.popleft()
            if event.number > after + 1:
                self._news.clear()
                self.look = True
            elif event.number == after + 1:
                found.append(event)
                after += 1
        return found


class Hub:
    """Tells those who follow a run when something of it was kept."""

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
        said = loop.time()
        with self._following(job_id) as follower:
            while True:
                follower.woken.clear()
                for event in await self._next(follower, job_id, after):
                    after, said = event.number, loop.time()
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
                if loop.time() - said >= heartbeat:
                    said = loop.time()
                    yield None

    async def _next(self, follower: _Follower, job_id: str, after: int) -> list[Event]:
        found = follower.next(after)
        if found or not follower.look:
            return found
        follower.look = False
        try:
            rows = await self._store.events(job_id, after)
        except DATABASE_AWAY:
            return []
        follower.look = len(rows) == EVENTS
        return [Event(row["number"], row["name"], row["data"]) for row in rows]
