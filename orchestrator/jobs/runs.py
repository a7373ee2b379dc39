"""The runs of one process on the durable engine (DBOS): begun here, queued for whoever is free, or taken up again.

DBOS keeps one engine in a process, so one process holds one `Runs`. What it keeps: for each run its state and the
results of its finished steps, as portable JSON, in the schema `dbos` of the same database.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID, error
from prometheus_client import Counter, Gauge, Histogram
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import URL

from core.errors import Forbidden, SoundstageError, UpstreamTimeout, internal
from orchestrator.auth import Key
from orchestrator.jobs.durable import SECONDS, Durable, traced
from orchestrator.jobs.events import Hub, Teller
from orchestrator.jobs.plain import kept_error, plain, where
from orchestrator.jobs.store import End, JobStore, Taken, Wanted, new_job_id
from orchestrator.oversight import Caller
from orchestrator.pipelines.base import Pipeline, Studio
from orchestrator.pipelines.flow import STOPPING
from orchestrator.tracing import Tracing
from prompts.registry import DATABASE_AWAY

log = logging.getLogger(__name__)

VERSION = "1"
"""Of the pipelines' steps. Raised when a pipeline asks for its steps in another order or under other names: what was
begun under another version is then not taken up (orchestrator/jobs/recovery.py). Never the product's version: most
upgrades change no steps, and what runs then goes on."""
WORKFLOW = "pipeline"
NAME, SCHEMA = "soundstage", "dbos"
MOST_ATTEMPTS = 20
RETRY_SECONDS = 0.5
POLL_SECONDS = 1.0
THREADS, CONNECTIONS = 16, 8

RUNS = Histogram(
    "soundstage_pipeline_seconds",
    "Seconds from a run's start to its end.",
    ["pipeline", "way", "outcome"],
    buckets=SECONDS,
)
RUNNING = Gauge("soundstage_pipelines_running", "Runs at work in this process.")
AGAIN = Counter("soundstage_pipelines_resumed_total", "Runs that another process had begun.", ["pipeline"])


@dataclass
class _Here:
    """A run at work in this process."""

    task: "asyncio.Task[Any]"
    ending: bool = False  # what it came to is being kept: too late to cancel it


class Runs:
    """Begins runs and carries them out. Enter it on the event loop that the workers' clients live on."""

    def __init__(
        self,
        dsn: str,
        store: JobStore,
        teller: Teller,
        hub: Hub,
        studio: Studio,
        pipelines: Mapping[str, Pipeline],
        tracing: Tracing | None = None,
    ) -> None:
        self.executor = "exec_" + os.urandom(8).hex()
        self.pipelines = pipelines
        self._dsn = dsn
        self._store = store
        self._teller = teller
        self._hub = hub
        self._studio = studio
        self._tracing = tracing
        self._here: dict[str, _Here] = {}
        self._held: dict[str, Mapping[str, bytes]] = {}
        self._waited: dict[str, asyncio.Future[End | None]] = {}
        self._rests_until = 0.0  # on the monotonic clock
        RUNNING.set_function(lambda: len(self._here))

    async def __aenter__(self) -> "Runs":
        url = sqlalchemy_url(self._dsn)
        # It builds indexes concurrently, which waits for every transaction: ours must be able to end meanwhile.
        await asyncio.to_thread(DBOS.migrate, url, schema=SCHEMA)
        config: DBOSConfig = {
            "name": NAME,
            "system_database_url": url,
            "dbos_system_schema": SCHEMA,
            "run_migrations": False,
            "executor_id": self.executor,
            "application_version": VERSION,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "ERROR",
            "max_executor_threads": THREADS,
            "sys_db_pool_size": CONNECTIONS,
            "enable_otlp": False,
            "scheduler_polling_interval_sec": 3600.0,
        }
        _into_our_log()
        self._engine = DBOS(config=config)

        async def pipeline(job_id: str) -> None:  # a function of its own: the engine marks what it is given
            await self.carry_out(job_id)

        self._workflow = DBOS.workflow(name=WORKFLOW, max_recovery_attempts=MOST_ATTEMPTS * 5)(pipeline)
        DBOS.launch()
        for pool in sorted({queue_of(one) for one in self.pipelines.values()}):
            await DBOS.register_queue_async(
                pool, partition_concurrency=1, polling_interval_sec=POLL_SECONDS, on_conflict="never_update"
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        """What runs here is left as it is: another orchestrator takes it up, or this one when it is back."""
        tasks = [here.task for here in self._here.values()]
        for task in tasks:
            task.cancel(STOPPING)
        await asyncio.gather(*tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as apart:  # it ends the threads that it would otherwise run on
            await loop.run_in_executor(apart, lambda: DBOS.destroy(destroy_registry=True))
        loop.set_default_executor(ThreadPoolExecutor())

    def rest(self, seconds: float) -> None:
        """Begin nothing more out of the queues; what runs here may take so long."""
        self._rests_until = time.monotonic() + seconds
        for stop in self._engine.background_thread_stop_events:
            stop.set()

    async def idle(self) -> None:
        """Returns when nothing runs here, or the time is up that `rest` gave."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rests_until - time.monotonic()):
                while running := [here.task for here in self._here.values()]:
                    await asyncio.wait(running)

    # -- beginning ------------------------------------------------------------------------------------------------

    async def begin(self, wanted: Wanted, held: Mapping[str, bytes]) -> str:
        """Begin a run in this process; its id, or that of the run which its idempotency key names."""
        job_id = new_job_id()
        kept = await self._store.add(job_id, wanted)
        if kept != job_id:
            return kept
        if wanted.way == "wait":
            self._waited[job_id] = asyncio.get_running_loop().create_future()
        if held:
            self._held[job_id] = held
        with SetWorkflowID(job_id):
            await DBOS.start_workflow_async(self._workflow, job_id)
        return job_id

    async def enqueue(self, wanted: Wanted) -> str:
        """Queue a run for whichever orchestrator is free; the row and its place in the queue come to be together."""
        job_id = new_job_id()
        queue = queue_of(self.pipelines[wanted.pipeline])
        return await self._store.add(job_id, wanted, queued(job_id, queue, wanted.caller.key.tenant, wanted.priority))

    async def ended_here(self, job_id: str) -> End | None:
        """How a run ended that was begun here to be waited for; None where this process does not know."""
        waited = self._waited.get(job_id)
        if waited is None:
            return None
        try:
            return await asyncio.shield(waited)
        finally:
            self._waited.pop(job_id, None)

    def cancel_here(self, job_id: str) -> None:
        """End the step that runs, wherever it waits."""
        here = self._here.get(job_id)
        if here is not None and not here.ending:
            here.task.cancel()

    async def cancel(self, job_id: str, how: End) -> bool:
        """End a run before its time, on whichever orchestrator it runs; whether it had not ended before."""
        ended = await self._store.end(job_id, how)
        if ended:
            self.cancel_here(job_id)
            await DBOS.cancel_workflow_async(job_id)
        return ended

    async def look_for_cancelled(self) -> None:
        """Runs here that were cancelled elsewhere; called at a notification, and now and then in case one is lost."""
        if self._here:
            for job_id in await self._store.cancelled_of(list(self._here)):
                self.cancel_here(job_id)

    # -- carrying out ---------------------------------------------------------------------------------------------

    async def carry_out(self, job_id: str) -> None:
        """The workflow: called by the durable engine, again where a process died before its end."""
        taken = await _until_there(lambda: self._store.begin(job_id))
        if taken is None:
            return
        if taken.attempts > 1:
            AGAIN.labels(taken.pipeline).inc()
        task = asyncio.current_task()
        assert task is not None
        here = self._here[job_id] = _Here(task)
        began = time.perf_counter()
        how: End | None = None
        try:
            found = how = await self._run(taken)
            await self._teller.flushed()
            here.ending = True
            if not await _until_there(lambda: self._store.end(job_id, found)):
                how = None  # it was ended meanwhile, as the row says
        finally:
            if self._here.get(job_id) is here:  # taken for dead, this process may have taken up its own run
                del self._here[job_id]
            self._held.pop(job_id, None)
            waited = self._waited.get(job_id)
            if waited is not None and not waited.done():
                waited.set_result(how)
            self._hub.wake(job_id)
        RUNS.labels(taken.pipeline, taken.way, how.state if how else "cancelled").observe(time.perf_counter() - began)

    async def _run(self, taken: Taken) -> End:
        flow = Durable(taken, self._teller, self._held.get(taken.id, {}), self._tracing)
        try:
            if taken.attempts > MOST_ATTEMPTS:
                raise SoundstageError("The run ended its process again and again.", code="too_many_attempts")
            if taken.revoked:
                raise Forbidden("The key of this run is not valid any more.", code="key_revoked")
            pipeline = self.pipelines[taken.pipeline]
            request = pipeline.asked.model_validate(taken.request)
            with traced(self._tracing, taken):
                async with asyncio.timeout(taken.seconds_left):
                    answer = await pipeline.run(self._studio, flow, request, caller_of(taken))
            return End("completed", plain(answer), None, flow.tokens, flow.image_steps)
        except TimeoutError:
            late = UpstreamTimeout("The run took longer than it may.", code="pipeline_timeout")
            return End("failed", None, kept_error(late), flow.tokens, flow.image_steps)
        except SoundstageError as exc:
            return End("failed", None, kept_error(exc), flow.tokens, flow.image_steps, exc)
        except error.DBOSException:
            raise  # the run is another process's now
        except Exception as exc:  # noqa: BLE001 - the outermost of a run
            log.error("a run failed", extra={"job": taken.id, **where(exc)})
            return End("failed", None, kept_error(internal()), flow.tokens, flow.image_steps)


async def _until_there(ask: Any) -> Any:
    """The answer of the database, however long it is away."""
    while True:
        try:
            return await ask()
        except DATABASE_AWAY as exc:
            log.warning("the database is away; a run waits", extra={"reason": str(exc)})
            await asyncio.sleep(RETRY_SECONDS)


def queue_of(pipeline: Pipeline) -> str:
    """The queue of its background jobs: one for each pool of image workers."""
    return pipeline.role or "images"


def queued(job_id: str, queue: str, tenant: str, priority: int) -> tuple[str, tuple[Any, ...]]:
    """The statement that queues a run: the durable engine's own function, so that it joins our transaction."""
    statement = (
        "select dbos.enqueue_workflow(workflow_name => %s, queue_name => %s, workflow_id => %s, app_version => %s,"
        " positional_args => array[to_json(%s::text)], priority => %s, queue_partition_key => %s,"
        " application_name => %s)"
    )
    return statement, (WORKFLOW, queue, job_id, VERSION, job_id, 10 - priority, tenant, NAME)


def caller_of(taken: Taken) -> Caller:
    """Who asked, as it was when they did; until when is the run's own deadline."""
    kept = taken.caller
    key = Key(taken.key_id, taken.tenant, frozenset(kept["scopes"]), kept["max_tier"], None)
    until = asyncio.get_running_loop().time() + taken.seconds_left
    return Caller(key, kept["request_id"], kept["route"], kept["session"], kept["asked_tier"], False, until)


def sqlalchemy_url(dsn: str) -> str:
    """The same database, as SQLAlchemy writes it: any form of DSN goes, a Unix socket too."""
    given = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    user, password, database = (given.pop(name, None) for name in ("user", "password", "dbname"))
    url = URL.create("postgresql+psycopg", user, password, database=database, query=given)
    return url.render_as_string(hide_password=False)


def _into_our_log() -> None:
    """DBOS writes to the console by itself where its logger has no handler."""
    logger = logging.getLogger("dbos")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
