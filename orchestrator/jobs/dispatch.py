"""Gives this process queued jobs for as long as there are places: as many of a pool are at work, in all orchestrators
together, as its workers declare. The places themselves are given out by workers/places.py, as to everyone."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from prometheus_client import Gauge

from core.db.errors import DATABASE_AWAY
from core.metrics import same_everywhere
from orchestrator.jobs.executor import Executor
from orchestrator.jobs.queue import JobQueue
from orchestrator.jobs.values import AT_ONCE, pool_of
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.worker import Worker

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # in case a notification was lost, or workers came
PAUSE_SECONDS = 0.01  # many ends, one claim

WAITING = same_everywhere(
    Gauge("soundstage_jobs_waiting", "Background jobs that nobody has begun; of all orchestrators.", ["pipeline"])
)
OLDEST = same_everywhere(
    Gauge("soundstage_jobs_oldest_seconds", "How long the oldest of them has waited; 0: none does.", ["pipeline"])
)


def places(workers: Iterable[Worker], role: str | None) -> int:
    """What the image workers of a role declare; those of every role, where nobody has this one."""
    images = [w for w in workers if w.announcement.kind == "image"]
    own = [w for w in images if role is not None and role in w.announcement.roles]
    return sum(w.capacity for w in own or images)


class Dispatcher:
    """One for each process. `most`: jobs of a pool at work at once, whatever its workers declare."""

    def __init__(self, queue: JobQueue, executor: Executor, workers: WorkerPool, most: int) -> None:
        self._queue = queue
        self._executor = executor
        self._workers = workers
        self._most = most
        self._roles = {pool_of(pipeline): pipeline.role for pipeline in executor.pipelines.values()}
        self._queued: set[str] = set()  # pools that may have something in their queue
        self._woken = asyncio.Event()

    def places(self, pool: str) -> int:
        """How many background jobs may be at work now in a pool."""
        return min(places(self._workers.usable(), self._roles[pool]), self._most)

    def wake(self, pool: str | None = None) -> None:
        """Something was queued for this pool; or a run ended, so that there may be a place."""
        if pool is not None:
            self._queued.add(pool)
        if self._queued:
            self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        next_look = 0.0
        while True:
            try:
                if loop.time() >= next_look:
                    next_look = loop.time() + LOOK_SECONDS
                    await self._look()
                for pool in [*self._queued]:
                    await self._claim(pool)
            except DATABASE_AWAY as exc:
                log.warning("the queue waits for the database", extra={"reason": exc})
            try:
                async with asyncio.timeout_at(next_look):
                    await self._woken.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(PAUSE_SECONDS)
            self._woken.clear()

    async def _claim(self, pool: str) -> None:
        """A pool without a worker has one place all the same: its job waits for a worker, until its deadline."""
        if pool != AT_ONCE and pool not in self._roles:
            return
        limit = 2**15 if pool == AT_ONCE else max(1, self.places(pool))
        while await self._executor.claim(pool, limit):
            pass

    async def _look(self) -> None:
        """What is queued, and how far the jobs of each pipeline lag."""
        self._queued.clear()
        rows = await self._queue.waiting()
        self._queued.update(row["pool"] for row in rows if row["pool"] is not None)
        lag: dict[str, dict[str, Any]] = {row["pipeline"]: row for row in rows if row["pool"] != AT_ONCE}
        for name in self._executor.pipelines:
            row = lag.get(name, {})
            WAITING.labels(name).set(row.get("jobs", 0))
            OLDEST.labels(name).set(row.get("oldest") or 0.0)
