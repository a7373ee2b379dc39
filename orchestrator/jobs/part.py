"""Runs of pipelines, called: durable where the settings say so, else as long as somebody waits."""

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from core.keys import read_or_make
from core.part import Part
from core.repeat import every
from orchestrator.access.part import Access
from orchestrator.jobs import routes
from orchestrator.jobs.calls import PipelineCalls
from orchestrator.jobs.dispatch import Dispatcher
from orchestrator.jobs.events import EventWriter
from orchestrator.jobs.executor import Executor
from orchestrator.jobs.followers import Followers
from orchestrator.jobs.listener import Listener
from orchestrator.jobs.queue import JobQueue
from orchestrator.jobs.recovery import Recovery
from orchestrator.jobs.store import JobStore
from orchestrator.jobs.webhooks import Webhooks
from orchestrator.operate.part import Operate
from orchestrator.pipelines import part as pipelines_part
from orchestrator.pipelines.calls import MemoryRuns
from orchestrator.pipelines.part import Pipelines
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers.part import Workers
from orchestrator.workers.registry import WorkerPool

log = logging.getLogger(__name__)

PURGE_SECONDS = 600.0
PURGED_AT_ONCE = 500


class Jobs:
    """The durable engine of one process. Enter it on the loop that serves; then its `watchers` may run."""

    def __init__(
        self, settings: OrchestratorSettings, operate: Operate, workers: WorkerPool, pipelines: Pipelines
    ) -> None:
        self._settings = settings
        self.store = JobStore(operate.pool, operate.seal, settings.jobs_queue_max)
        queue, followers = JobQueue(operate.pool, self.store), Followers(self.store)
        writer = EventWriter(operate.dsn, followers, operate.seal)
        self.executor = Executor(
            store=self.store,
            queue=queue,
            writer=writer,
            followers=followers,
            studio=pipelines.studio,
            pipelines=pipelines.table,
            tracing=operate.tracing,
        )
        dispatcher = Dispatcher(queue, self.executor, workers, settings.jobs_at_once)
        self._recovery = Recovery(operate.dsn, self.executor, settings.jobs_grace_seconds)
        given = settings.webhook_secret
        secret = given.get_secret_value() if given else read_or_make(settings.data_dir / "keys" / "webhook_secret")
        self.webhooks = Webhooks(operate.pool, secret)
        self.calls = PipelineCalls(
            executor=self.executor,
            jobs=self.store,
            followers=followers,
            blobs=pipelines.studio.blobs,
            places=dispatcher.places,
            pipeline_seconds=settings.pipeline_seconds,
            job_seconds=settings.job_seconds,
            stream_grace=settings.stream_grace_seconds,
        )
        self.watchers = {
            "events of jobs": writer.write,
            "news of jobs": Listener(operate.dsn, followers, self.executor, dispatcher).listen,
            "jobs of the dead": lambda: self._recovery.watch(self._locks),
            "queues": dispatcher.run,
            "webhooks": self.webhooks.run,
            "old jobs": self._purge,
        }

    async def __aenter__(self) -> "Jobs":
        async with AsyncExitStack() as stack:
            self._locks = await self._recovery.hold()
            stack.push_async_callback(self._locks.close)
            stack.push_async_callback(self.executor.stop)
            stack.push_async_callback(self.calls.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def rest(self) -> None:
        """Claim nothing more: another orchestrator does. What runs here goes on, as long as a stop may take."""
        self.executor.rest(self._settings.stop_delay_seconds + self._settings.stop_seconds)

    async def _purge(self) -> None:
        """Let go of runs that ended longer ago than is kept, now and then."""
        await every(PURGE_SECONDS, self._purge_once, failing="old jobs are not purged")

    async def _purge_once(self) -> None:
        while purged := await self.store.purge(self._settings.jobs_days, PURGED_AT_ONCE):
            log.info("old jobs purged", extra={"jobs": purged})


@dataclass(kw_only=True)
class JobsPart(Part):
    """`rest`: begin nothing more that is queued; called as the process is told to stop."""

    jobs: Jobs | None = None
    rest: Callable[[], None] = lambda: None

    async def idle(self) -> None:
        """Returns when no run is at work here, or the time of a stop is over."""
        if self.jobs:
            await self.jobs.executor.idle()


def build(
    settings: OrchestratorSettings, operate: Operate, access: Access, workers: Workers, pipelines: Pipelines
) -> JobsPart:
    if not settings.durable_jobs:
        memory = MemoryRuns(pipelines.studio, pipelines.table, settings.pipeline_seconds)
        return JobsPart(routers=pipelines_part.routers(settings, access, pipelines, memory))
    jobs = Jobs(settings, operate, workers.pool, pipelines)
    own = routes.router(access.keys, jobs.calls, jobs.store, jobs.executor, jobs.webhooks)
    return JobsPart(
        jobs=jobs,
        rest=jobs.rest,
        routers=[*pipelines_part.routers(settings, access, pipelines, jobs.calls), own],
        resources=[jobs],
        watchers=jobs.watchers,
    )
