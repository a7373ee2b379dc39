"""The runs of one process: begun here, or claimed out of the queue. Their rows say so: `executor` is this process.

A run that somebody waits for or follows is carried out by the process that was asked. What a run did is kept by
orchestrator/jobs/events.py; orchestrator/jobs/recovery.py puts back what a process left.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import Counter, Gauge, Histogram

from core.db.errors import DATABASE_AWAY
from core.db.plain import error_record, plain, where
from core.errors import Forbidden, SoundstageError, UpstreamTimeout, internal
from core.watchers import end
from orchestrator.jobs.caller_record import own_caller
from orchestrator.jobs.events import EventWriter
from orchestrator.jobs.flow import SECONDS, DurableFlow, LostError, Turns, span
from orchestrator.jobs.followers import Followers
from orchestrator.jobs.queue import JobQueue
from orchestrator.jobs.store import JobStore, NewJob
from orchestrator.jobs.values import Claim, End, RunRequest, Way
from orchestrator.operate.tracing import Tracing
from orchestrator.pipelines.base import Pipeline, Studio
from orchestrator.pipelines.flow import STOPPING

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 20
STOP_SECONDS = 2.0

RUNS = Histogram(
    "soundstage_pipeline_seconds",
    "Seconds from a run's start to its end.",
    ["pipeline", "way", "outcome"],  # written out: docs/metrics.md is read from here
    buckets=SECONDS,
)
RUNNING = Gauge("soundstage_pipelines_running", "Runs at work in this process.")
AGAIN = Counter("soundstage_pipelines_resumed_total", "Runs that another process had begun.", ["pipeline"])


@dataclass(eq=False)
class _Run:
    """A run at work in this process."""

    way: Way
    task: "asyncio.Task[None]" = field(init=False)
    ending: bool = False  # what it came to is being kept: too late to cancel it


@dataclass(kw_only=True, eq=False)
class Executor:
    """Begins runs, claims runs, and carries them out. Use it on the event loop that the workers' clients live on."""

    store: JobStore
    queue: JobQueue
    writer: EventWriter
    followers: Followers
    studio: Studio
    pipelines: Mapping[str, Pipeline]
    tracing: Tracing | None

    def __post_init__(self) -> None:
        self.id = "exec_" + os.urandom(8).hex()
        self.claiming = asyncio.Lock()  # held between a claim and the start of what was claimed
        self._turns = Turns()
        self._runs: dict[str, _Run] = {}
        self._memory: dict[str, Mapping[str, bytes]] = {}
        self._waits: dict[str, asyncio.Future[End | None]] = {}
        self._rests_until = 0.0  # on the monotonic clock
        RUNNING.set_function(lambda: len(self._runs))

    # -- stopping -------------------------------------------------------------------------------------------------

    def rest(self, seconds: float) -> None:
        """Claim nothing more; what runs here may take so long."""
        self._rests_until = time.monotonic() + seconds

    async def idle(self) -> None:
        """Returns when nothing runs here, or the time is up that `rest` gave."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rests_until - time.monotonic()):
                async with self.claiming:
                    pass
                while tasks := [run.task for run in self._runs.values()]:
                    await asyncio.wait(tasks)

    async def stop(self) -> None:
        """Put what runs here back into the queue: another process resumes it, or this one when it is back."""
        self.rest(0)
        tasks = [run.task for run in self._runs.values()]
        await end(tasks, STOPPING)
        if tasks:
            with contextlib.suppress(TimeoutError, *DATABASE_AWAY):  # it is found by its lock, after a while
                async with asyncio.timeout(STOP_SECONDS):
                    await self.queue.give_back(self.id)

    # -- beginning ------------------------------------------------------------------------------------------------

    async def begin(self, request: RunRequest, memory: Mapping[str, bytes]) -> str:
        """Begin a run in this process; its id, or that of the run which its idempotency key names."""
        job = await self.store.begin(request, self.id)
        if job.begins and request.way == "wait":
            self._waits[job.id] = asyncio.get_running_loop().create_future()
        if job.begins and request.way == "stream":
            self.followers.expect(job.id)
        if job.begins and memory:
            self._memory[job.id] = memory
        return self._begun(job, request)

    async def enqueue(self, request: RunRequest, places: int) -> str:
        """Begin a run in this process where its pool has a place for it, of so many; else queue it for whichever
        orchestrator is free."""
        return self._begun(await self.store.enqueue(request, self.id, 0 if self._rests_until else places), request)

    def _begun(self, job: NewJob, request: RunRequest) -> str:
        if job.begins:
            caller = own_caller(request.caller, request.seconds)
            self._start(Claim(job.id, request.pipeline, request.way, 1, request.request, caller))
        return job.id

    async def claim(self, pool: str, places: int) -> int:
        """Claim and start jobs of a pool that has so many places; how many."""
        async with self.claiming:
            if self._rests_until:
                return 0
            claims = await self.queue.claim(pool, places, self.id)
            for claim in claims:
                if claim.attempt > 1:
                    AGAIN.labels(claim.pipeline).inc()
                self._start(claim)
        return len(claims)

    def _start(self, claim: Claim) -> None:
        """Taken for dead, this process may claim its own run anew: the older attempt finds that it is lost."""
        run = self._runs[claim.id] = _Run(claim.way)
        run.task = asyncio.create_task(self._carry_out(claim, run), name=claim.id)
        run.task.add_done_callback(lambda _: self._over(claim.id, run))  # one cancelled before it began, too

    # -- what runs here -------------------------------------------------------------------------------------------

    def here(self) -> list[str]:
        """The runs at work in this process."""
        return list(self._runs)

    def way(self, job_id: str) -> Way | None:
        """How a run that is at work in this process was called; None where it is not."""
        run = self._runs.get(job_id)
        return run.way if run else None

    async def ended_here(self, job_id: str) -> End | None:
        """How a run ended that was begun here to be waited for; None where this process does not know."""
        future = self._waits.get(job_id)
        if future is None:
            return None
        try:
            return await asyncio.shield(future)
        finally:
            self._waits.pop(job_id, None)

    async def cancel(self, job_id: str, how: End) -> bool:
        """End a run before its time, on whichever orchestrator it runs; whether it had not ended before."""
        ended = await self.store.end(job_id, how)
        if ended:
            self.cancel_here(job_id)
        return ended

    def cancel_here(self, job_id: str) -> None:
        """End the step that runs, wherever it waits."""
        run = self._runs.get(job_id)
        if run is not None and not run.ending:
            run.task.cancel()

    async def look_for_cancelled(self) -> None:
        """End runs here that were cancelled elsewhere, in case a notification was lost."""
        if self._runs:
            for job_id in await self.store.cancelled_of(list(self._runs)):
                self.cancel_here(job_id)

    # -- carrying out ---------------------------------------------------------------------------------------------

    async def _carry_out(self, claim: Claim, run: _Run) -> None:
        flow = DurableFlow(claim, self.writer, self._turns, self._memory.get(claim.id, {}), self.tracing)
        began = time.perf_counter()
        how: End | None = None
        try:
            result = await self._result(claim, flow)
            run.ending = True
            how = await self._end(flow, result)
        except LostError:
            log.info("a run was ended, or resumed elsewhere", extra={"job": claim.id})
        finally:
            self._over(claim.id, run, how)
        RUNS.labels(claim.pipeline, claim.way, how.state if how else "cancelled").observe(time.perf_counter() - began)

    def _over(self, job_id: str, run: _Run, how: End | None = None) -> None:
        """It is not at work here any more: whoever waits for it is told."""
        if self._runs.get(job_id) is not run:
            return
        del self._runs[job_id]
        self._memory.pop(job_id, None)
        self.followers.over(job_id)
        future = self._waits.get(job_id)
        if future is not None and not future.done():
            future.set_result(how)

    async def _end(self, flow: DurableFlow, result: End) -> End:
        """How it ended, as it is kept: as failed, where the database refuses what it came to. Raises LostError."""
        try:
            await flow.end(result)
        except SoundstageError as exc:
            result = _failed(flow, exc)
            await flow.end(result)
        return result

    async def _result(self, claim: Claim, flow: DurableFlow) -> End:
        try:
            if claim.attempt > MOST_ATTEMPTS:
                raise SoundstageError("The run ended its process again and again.", code="too_many_attempts")
            if claim.revoked:
                raise Forbidden("The key of this run is not valid any more.", code="key_revoked")
            pipeline = self.pipelines[claim.pipeline]
            request = pipeline.request.model_validate(claim.request)
            with span(self.tracing, claim):
                async with asyncio.timeout_at(claim.caller.until):
                    answer = await pipeline.run(self.studio, flow, request, claim.caller)
            return End("completed", plain(answer), None, flow.tokens, flow.image_steps)
        except TimeoutError:
            return _failed(flow, UpstreamTimeout("The run took longer than it may.", code="pipeline_timeout"))
        except SoundstageError as exc:
            return _failed(flow, exc)
        except LostError:
            raise
        except Exception as exc:  # noqa: BLE001 - the outermost of a run
            log.error("a run failed", extra={"job": claim.id, **where(exc)})
            return _failed(flow, internal())


def _failed(flow: DurableFlow, exc: SoundstageError) -> End:
    return End("failed", None, error_record(exc), flow.tokens, flow.image_steps, exc)
