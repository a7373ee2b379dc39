"""Events of runs: told in batches off the pipeline's path, followed by whoever asks, on any orchestrator.

An event is shown only when it is kept, so nobody sees one that a crash then takes back.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from core.db.pool import Pool
from orchestrator.jobs.store import JobStore
from orchestrator.pipelines.flow import Event
from prompts.registry import DATABASE_AWAY

log = logging.getLogger(__name__)

BATCH = 200
MAX_WAITING = 2_000
RETRY_SECONDS = 0.5
LOOK_SECONDS = 1.0  # a follower looks this often in case a notification was lost
LAST = frozenset(("pipeline.completed", "error"))


class Told(NamedTuple):
    """An event on its way to the database. `key` names it within its run."""

    job: str
    key: str
    name: str
    data: Mapping[str, Any]


class Teller:
    """Takes events at once and keeps them soon, in their order. One for each process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: deque[Told] = deque()
        self._wake = asyncio.Event()
        self._written = asyncio.Condition()

    async def tell(self, told: Told) -> None:
        """Waits only where much is waiting: a database that is away slows the pipelines, and costs no memory."""
        while len(self._waiting) >= MAX_WAITING:
            await self._turn()
        self._waiting.append(told)
        self._wake.set()

    async def flushed(self) -> None:
        """Return when nothing that was told before is still waiting."""
        last = self._waiting[-1] if self._waiting else None
        while last is not None and any(one is last for one in self._waiting):
            await self._turn()

    async def _turn(self) -> None:
        async with self._written:
            await self._written.wait()

    async def write(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = list(self._waiting)[:BATCH]
                try:
                    await self._keep(batch)
                except DATABASE_AWAY as exc:
                    log.warning("events not kept; trying again", extra={"waiting": len(batch), "reason": str(exc)})
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                for _ in batch:
                    self._waiting.popleft()
                async with self._written:
                    self._written.notify_all()

    async def _keep(self, batch: list[Told]) -> None:
        async with self._pool.connection() as connection:
            await connection.execute("select tell_jobs(%s)", (Jsonb([one._asdict() for one in batch]),))


class Ear:
    """Hears of events and ends that other orchestrators kept."""

    def __init__(self, dsn: str, hub: "Hub", ended: Callable[[str], None]) -> None:
        self._dsn = dsn
        self._hub = hub
        self._ended = ended

    async def listen(self) -> None:
        """Until cancelled. While the connection is broken, who follows looks by themselves."""
        while True:
            with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
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


class Hub:
    """Wakes those who follow a run when something of it was kept."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._followers: dict[str, set[asyncio.Event]] = {}

    def wake(self, job_id: str) -> None:
        for woken in self._followers.get(job_id, ()):
            woken.set()

    def wake_all(self) -> None:
        for job_id in self._followers:
            self.wake(job_id)

    @contextlib.contextmanager
    def _following(self, job_id: str) -> Any:
        woken = asyncio.Event()
        self._followers.setdefault(job_id, set()).add(woken)
        try:
            yield woken
        finally:
            self._followers[job_id].discard(woken)
            if not self._followers[job_id]:
                del self._followers[job_id]

    async def follow(self, job_id: str, after: int, heartbeat: float) -> AsyncGenerator[Event | None, None]:
        """Each event after that number once, in order, up to the last; None where nothing came for `heartbeat` s.

        Ends with the run's last event. While the database is away it waits.
        """
        loop = asyncio.get_running_loop()
        said = loop.time()
        with self._following(job_id) as woken:
            while True:
                woken.clear()
                for row in await self._next(job_id, after):
                    after, said = row["number"], loop.time()
                    yield Event(row["number"], row["name"], row["data"])
                    if row["name"] in LAST:
                        return
                    woken.set()  # there may be more
                if not woken.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(woken.wait(), LOOK_SECONDS)
                if loop.time() - said >= heartbeat:
                    said = loop.time()
                    yield None

    async def _next(self, job_id: str, after: int) -> list[dict[str, Any]]:
        try:
            return await self._store.events(job_id, after)
        except DATABASE_AWAY:
            return []
