"""What runs do: kept in batches, many runs at once, and only then shown to whoever follows: nobody sees an event that a
crash then takes back."""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from prometheus_client import Counter
from psycopg.types.json import Json

from core.db.connection import connect
from core.db.errors import DATABASE_AWAY, is_refusal
from core.errors import SoundstageError, internal
from orchestrator.jobs.followers import Followers
from orchestrator.jobs.store import sealed_end
from orchestrator.operate.seal import Seal
from orchestrator.pipelines.flow import Event

log = logging.getLogger(__name__)

BATCH = 200
MAX_WAITING = 2_000
RETRY_SECONDS = 0.5
REFUSED = Counter("soundstage_events_refused_total", "Events of runs that the database refused; their runs fail.")

EventNumber = asyncio.Future[int | None]
"""An event's number once it is kept; None where it is not: its run has ended, or is another process's now. It raises
where the database refused the event."""


class NewEvent(NamedTuple):
    """Something that a run did, on its way to the database. `key` names it within its run. The last has an `end`: how
    the run ended."""

    job: str
    attempt: int
    key: str
    name: str
    data: Mapping[str, Any]
    end: Mapping[str, Any] | None = None

    def sealed(self, seal: Seal) -> dict[str, Any]:
        """As keep_events() takes it."""
        row = {**self._asdict(), "data": seal.wrap(self.data, self.job)}
        row.pop("end")
        return row if self.end is None else {**row, "end": sealed_end(seal, self.job, self.end)}


class EventWriter:
    """Takes what runs do at once and keeps it soon, in its order. One for each process, with a connection of its own:
    what is done waits for nobody who only reads."""

    def __init__(self, dsn: str, followers: Followers, seal: Seal) -> None:
        self._dsn = dsn
        self._followers = followers
        self._seal = seal
        self._waiting: deque[tuple[NewEvent, EventNumber]] = deque()
        self._wake = asyncio.Event()
        self._written = asyncio.Condition()

    async def put(self, event: NewEvent) -> EventNumber:
        """Waits only where much is waiting: a database that is away slows the pipelines, and costs no memory."""
        while len(self._waiting) >= MAX_WAITING:
            async with self._written:
                await self._written.wait()
        number: EventNumber = asyncio.get_running_loop().create_future()
        self._waiting.append((event, number))
        self._wake.set()
        return number

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
        numbers = await self._insert(connection, [event for event, _ in batch])
        for _ in batch:
            self._waiting.popleft()
        for (event, future), number in zip(batch, numbers, strict=True):
            if isinstance(number, int):
                self._followers.happened(event.job, Event(number, event.name, event.data))
            if future.done():  # who waited for it may have been cancelled
                continue
            if isinstance(number, Exception):
                future.set_exception(number)
                future.exception()  # not every event is waited for
            else:
                future.set_result(number)
        async with self._written:
            self._written.notify_all()

    async def _insert(
        self, connection: psycopg.AsyncConnection[Any], events: Sequence[NewEvent]
    ) -> list[int | SoundstageError | None]:
        """Their numbers; where the database refuses one, its run is told so and its neighbours are kept."""
        try:
            rows = Json([event.sealed(self._seal) for event in events])
            (row,) = await (await connection.execute("select keep_events(%s::json) as numbers", (rows,))).fetchall()
            return list(row["numbers"])
        except Exception as exc:
            if not is_refusal(exc):
                raise
            if len(events) > 1:
                return [(await self._insert(connection, [event]))[0] for event in events]
            REFUSED.inc()
            what = {"job": events[0].job, "event": events[0].name, "reason": str(exc)[:300]}
            log.error("an event was refused by the database", extra=what)
            return [internal()]
