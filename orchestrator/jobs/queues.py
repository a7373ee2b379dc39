"""How many background jobs of a pool are at work at once, in all orchestrators together: as many as its workers declare
places, shared evenly among the tenants who have some. The places themselves are given out by workers/places.py, as to
everyone, and it is its workers that are counted here: no more runs are begun than could be drawn.
"""

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dbos import DBOS
from prometheus_client import Gauge
from sqlalchemy.exc import DBAPIError

from core.db.errors import DATABASE_AWAY
from core.db.pool import Pool
from orchestrator.jobs.runs import Runs, queue_of
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.worker import Worker

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
BUSY_POLL_SECONDS, IDLE_POLL_SECONDS = 0.1, 2.0  # a look costs 7 ms of CPU, for each queue

WAITING = Gauge("soundstage_jobs_waiting", "Background jobs that nobody has begun; of all orchestrators.", ["pipeline"])
OLDEST = Gauge("soundstage_jobs_oldest_seconds", "How long the oldest of them has waited; 0: none does.", ["pipeline"])

_OPEN = """
select pipeline, count(distinct tenant) as tenants, count(*) filter (where state = 'queued') as waiting,
       extract(epoch from now() - min(created_at) filter (where state = 'queued'))::float8 as oldest
  from jobs where ended_at is null and way = 'background' group by pipeline
"""


class Limits(NamedTuple):
    """Of one queue: runs at once, whoever carries them out; of one tenant; seconds between two looks at it."""

    all: int
    tenant: int
    poll: float


def places(workers: Iterable[Worker], role: str | None) -> int:
    """What the image workers of a role declare; those of every role, where nobody has this one."""
    images = [w for w in workers if w.announcement.kind == "image"]
    own = [w for w in images if role is not None and role in w.announcement.roles]
    return sum(w.capacity for w in own or images)


def limits(free: int, tenants: int, most: int) -> Limits:
    """For a queue of `free` places in which `tenants` have jobs. Each gets a place, however many there are."""
    at_once = max(1, min(free, most))
    share = max(1, math.ceil(at_once / max(1, tenants)))
    return Limits(at_once, share, BUSY_POLL_SECONDS if tenants else IDLE_POLL_SECONDS)


class Queues:
    """Keeps the queues' limits at what the workers and the tenants of now ask for. One for each process."""

    def __init__(self, pool: Pool, runs: Runs, workers: WorkerPool, most: int) -> None:
        self._pool = pool
        self._runs = runs
        self._workers = workers
        self._most = most
        self._set: dict[str, Limits] = {}

    async def tend(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except (*DATABASE_AWAY, DBAPIError) as exc:  # the durable engine says it by SQLAlchemy
                log.warning("the queues' limits wait for the database", extra={"reason": exc})
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Once."""
        async with self._pool.connection() as connection:
            rows = {row["pipeline"]: row for row in await (await connection.execute(_OPEN)).fetchall()}
        self._count(rows)
        tenants = {name: row["tenants"] for name, row in rows.items()}
        for name, wanted in self._wanted(tenants).items():
            if self._set.get(name) != wanted:
                await _limit(name, wanted)
                self._set[name] = wanted

    def _count(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Tell how far the jobs of each pipeline lag; one that a table of an older version names is left out."""
        for name in self._runs.pipelines:
            row = rows.get(name, {})
            WAITING.labels(name).set(row.get("waiting", 0))
            OLDEST.labels(name).set(row.get("oldest") or 0.0)

    def places(self, pipeline: str) -> int:
        """How many background jobs may be at work now in the pool of that pipeline."""
        return min(places(self._workers.usable(), self._runs.pipelines[pipeline].role), self._most)

    def _wanted(self, tenants: Mapping[str, int]) -> dict[str, Limits]:
        usable = self._workers.usable()
        busy: dict[str, int] = {}
        roles: dict[str, str | None] = {}
        for name, pipeline in self._runs.pipelines.items():
            queue = queue_of(pipeline)
            roles[queue] = pipeline.role
            busy[queue] = max(busy.get(queue, 0), tenants.get(name, 0))
        return {queue: limits(places(usable, role), busy[queue], self._most) for queue, role in roles.items()}


async def _limit(name: str, wanted: Limits) -> None:
    """For every orchestrator: the durable engine keeps it in the database. A single one may have all the places."""
    await DBOS.register_queue_async(
        name,
        global_concurrency=wanted.all,
        worker_concurrency=wanted.all,
        partition_concurrency=wanted.tenant,
        polling_interval_sec=wanted.poll,
        on_conflict="always_update",
    )
