"""Runs of pipelines, called: durable where the settings say so, else as long as somebody waits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.part import Part
from core.watchers import Watchers
from orchestrator.access.part import Access
from orchestrator.operate.part import Operate
from orchestrator.pipelines import part as pipelines_part
from orchestrator.pipelines.calls import MemoryRuns, RunService
from orchestrator.pipelines.part import Pipelines
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers.part import Workers

if TYPE_CHECKING:
    from orchestrator.jobs.service import Jobs


@dataclass(kw_only=True)
class JobsPart(Part):
    """`rest`: begin nothing more that is queued; called as the process is told to stop."""

    jobs: "Jobs | None"

    @property
    def rest(self) -> Callable[[], None]:
        return self.jobs.rest if self.jobs else lambda: None

    def watch(self, watchers: Watchers) -> None:
        super().watch(watchers)
        if self.jobs:
            self.jobs.watch(watchers)

    async def idle(self) -> None:
        if self.jobs:
            await self.jobs.idle()


def build(
    settings: OrchestratorSettings, operate: Operate, access: Access, workers: Workers, pipelines: Pipelines
) -> JobsPart:
    jobs = _durable(settings, operate, workers, pipelines) if settings.durable_jobs else None
    service: RunService = (
        jobs.desk if jobs else MemoryRuns(pipelines.studio, pipelines.table, settings.pipeline_seconds)
    )
    routers = pipelines_part.routers(settings, access, pipelines, service)
    if jobs:
        routers = [*routers, jobs.router(access.keys)]
    return JobsPart(jobs=jobs, routers=routers, resources=[jobs] if jobs else [])


def _durable(settings: OrchestratorSettings, operate: Operate, workers: Workers, pipelines: Pipelines) -> "Jobs":
    from orchestrator.jobs.service import Jobs  # the durable engine: half a second that others need not wait

    return Jobs(
        settings,
        operate.dsn,
        operate.pool,
        pipelines.studio,
        pipelines.table,
        workers.pool,
        operate.seal,
        operate.tracing,
    )
