"""How many background jobs of a pool are at work at once: as many as its workers declare places, shared evenly among
the tenants who have some. The places themselves are given out by orchestrator/pools.py, as to everyone: here it is only
kept from happening that more runs are begun than could be drawn.
"""

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dbos import DBOS, Queue
from sqlalchemy.exc import DBAPIError

from core.db.pool import Pool
from orchestrator.jobs.runs import Runs, queue_of
from orchestrator.pool import Worker
from orchestrator.workers import WorkerPool
from prompts.registry import DATABASE_AWAY

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
BUSY_POLL_SECONDS, IDLE_POLL_SECONDS = 0.1, 1.0

_TENANTS = """
select pipeline, count(distinct tenant) as tenants from jobs
 where ended_at is null and way = 'background' group by pipeline
"""


class Limits(NamedTuple):
    """Of one queue: runs at once in one process, runs at once of one tenant, seconds between two looks at it."""

    here: int
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
                log.warning("the queues' limits wait for the database", extra={"reason": str(exc)})
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Once."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(_TENANTS)).fetchall()
        tenants = {row["pipeline"]: row["tenants"] for row in rows}
        for name, wanted in self._wanted(tenants).items():
            if self._set.get(name) != wanted:
                queue = await DBOS.retrieve_queue_async(name)
                if queue is not None:
                    await _limit(queue, wanted)
                    self._set[name] = wanted

    def _wanted(self, tenants: Mapping[str, int]) -> dict[str, Limits]:
        usable = self._workers.usable()
        busy: dict[str, int] = {}
        roles: dict[str, str | None] = {}
        for name, pipeline in self._runs.pipelines.items():
            queue = queue_of(pipeline)
            roles[queue] = pipeline.role
            busy[queue] = max(busy.get(queue, 0), tenants.get(name, 0))
        return {queue: limits(places(usable, role), busy[queue], self._most) for queue, role in roles.items()}


async def _limit(queue: Queue, wanted: Limits) -> None:
    await queue.set_partition_concurrency_async(wanted.tenant)
    await queue.set_worker_concurrency_async(wanted.here)
    await queue.set_polling_interval_sec_async(wanted.poll)
