"""The parts that jobs are made of, wired together: one `Jobs` for each process."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack

from dbos import DBOS
from fastapi import APIRouter
from sqlalchemy.exc import DBAPIError

from core.db.errors import DATABASE_AWAY
from core.db.pool import Pool
from core.keys import read_or_make
from core.watchers import Watchers
from orchestrator.access.keys import Keys
from orchestrator.jobs import routes as jobs
from orchestrator.jobs.desk import JobDesk
from orchestrator.jobs.events import Ear, Hub, Teller
from orchestrator.jobs.queues import Queues
from orchestrator.jobs.recovery import Reaper
from orchestrator.jobs.runs import Runs
from orchestrator.jobs.store import JobStore
from orchestrator.jobs.webhooks import Webhooks
from orchestrator.operate.seal import Seal
from orchestrator.operate.tracing import Tracing
from orchestrator.pipelines.base import Pipeline, Studio
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers.registry import WorkerPool

log = logging.getLogger(__name__)

PURGE_SECONDS = 600.0
PURGED_AT_ONCE = 500


class Jobs:
    """Enter it on the loop that serves; what `watch` starts runs for as long as it is entered."""

    def __init__(
        self,
        settings: OrchestratorSettings,
        dsn: str,
        pool: Pool,
        studio: Studio,
        pipelines: Mapping[str, Pipeline],
        workers: WorkerPool,
        seal: Seal,
        tracing: Tracing | None = None,
    ) -> None:
        self._days = settings.jobs_days
        self._stop_seconds = settings.stop_delay_seconds + settings.stop_seconds
        self.store = JobStore(pool, seal, settings.jobs_queue_max)
        hub = Hub(self.store)
        self._teller = Teller(dsn, hub, seal)
        self.runs = Runs(dsn, self.store, self._teller, hub, studio, pipelines, tracing)
        self._ear = Ear(dsn, hub, self.runs.cancel_here, self.runs.way)
        self._reaper = Reaper(dsn, self.runs, settings.jobs_grace_seconds)
        self._queues = Queues(pool, self.runs, workers, settings.jobs_at_once)
        given = settings.webhook_secret
        secret = given.get_secret_value() if given else read_or_make(settings.data_dir / "keys" / "webhook_secret")
        self.webhooks = Webhooks(pool, secret)
        self.desk = JobDesk(
            self.runs,
            self.store,
            hub,
            studio.blobs,
            self._queues.places,
            pipeline_seconds=settings.pipeline_seconds,
            job_seconds=settings.job_seconds,
            stream_grace=settings.stream_grace_seconds,
        )

    async def __aenter__(self) -> "Jobs":
        async with AsyncExitStack() as stack:
            self._held = await self._reaper.hold()
            stack.push_async_callback(self._held.close)
            await stack.enter_async_context(self.runs)
            stack.push_async_callback(self.desk.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def rest(self) -> None:
        """Begin nothing more that is queued: another orchestrator does. What runs here goes on."""
        self.runs.rest(self._stop_seconds)

    async def idle(self) -> None:
        """Where told to rest: wait for what runs here, as long as a stop may take. The watchers must still run."""
        await self.runs.idle()

    def router(self, keys: Keys) -> APIRouter:
        """What callers ask of jobs."""
        return jobs.router(keys, self.desk, self.store, self.runs, self.webhooks)

    def watch(self, watchers: Watchers) -> None:
        """Start what runs for as long as it is entered."""
        watchers.start("events of jobs", self._teller.write())
        watchers.start("news of jobs", self._ear.listen())
        watchers.start("jobs of the dead", self._reaper.watch(self._held))
        watchers.start("queues", self._queues.tend())
        watchers.start("webhooks", self.webhooks.run())
        watchers.start("old jobs", self.purge())

    async def purge(self) -> None:
        """Let go of runs that ended longer ago than is kept, now and then."""
        while True:
            try:
                while await purge_once(self.store, self._days) == PURGED_AT_ONCE:
                    pass
            except (*DATABASE_AWAY, DBAPIError) as exc:
                log.warning("old jobs not purged; trying again", extra={"reason": exc})
            await asyncio.sleep(PURGE_SECONDS)


async def purge_once(store: JobStore, days: float) -> int:
    """How many were let go: their texts, results and events, and the finished steps in the durable engine."""
    old = await store.old(days, PURGED_AT_ONCE)
    if old:
        await DBOS.delete_workflows_async(old)
        await store.forget(old)
        log.info("old jobs purged", extra={"jobs": len(old)})
    return len(old)
