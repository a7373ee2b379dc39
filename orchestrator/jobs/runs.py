"""The runs of one process: begun here, queued for whoever is free, or taken up again.

A run that somebody waits for or follows is carried out by the process that was asked. All others go through the durable
engine (DBOS), in the schema `dbos` of the same database: it queues them, gives each to one process, and takes up again
what a dead one left. What a run did is kept by orchestrator/jobs/events.py in both cases. DBOS keeps one engine in a
process, so one process holds one `Runs`.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer
from prometheus_client import Counter, Gauge, Histogram
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import URL

from core.db.errors import DATABASE_AWAY
from core.errors import Forbidden, SoundstageError, UpstreamTimeout, internal
from core.watchers import end
from orchestrator.access.keys import Key
from orchestrator.access.limits import Limits
from orchestrator.jobs.durable import SECONDS, Durable, LostError, Turns, traced
from orchestrator.jobs.events import Hub, Teller
from orchestrator.jobs.plain import kept_error, plain, where
from orchestrator.jobs.store import JobStore
from orchestrator.jobs.values import By, End, Queue, Taken, Wanted, Way, begun, new_job_id
from orchestrator.operate.tracing import Tracing
from orchestrator.pipelines.base import Pipeline, Studio
from orchestrator.pipelines.flow import STOPPING
from orchestrator.runs.caller import Caller

log = logging.getLogger(__name__)

VERSION = "2"
"""Of the pipelines' steps. Raised when a pipeline gives its steps other names or other results: what was begun under
another version is then not taken up (orchestrator/jobs/recovery.py). Never the product's version: most upgrades change
no steps, and what runs then goes on."""
WORKFLOW = "pipeline"
NAME, SCHEMA = "soundstage", "dbos"
MOST_ATTEMPTS = 20
RETRY_SECONDS = 0.5
POLL_SECONDS = 1.0
THREADS, CONNECTIONS, CONNECT_SECONDS = 16, 8, 10

RUNS = Histogram(
    "soundstage_pipeline_seconds",
    "Seconds from a run's start to its end.",
    ["pipeline", "way", "outcome"],
    buckets=SECONDS,
)
RUNNING = Gauge("soundstage_pipelines_running", "Runs at work in this process.")
AGAIN = Counter("soundstage_pipelines_resumed_total", "Runs that another process had begun.", ["pipeline"])


@dataclass(eq=False)
class _Here:
    """A run at work in this process."""

    task: "asyncio.Task[Any]"
    way: Way
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
        self._by = By(self.executor, VERSION)
        self.pipelines = pipelines
        self._dsn = dsn
        self._store = store
        self._teller = teller
        self._hub = hub
        self._studio = studio
        self._tracing = tracing
        self._turns = Turns()
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
            "db_engine_kwargs": {"creator": connecting(self._dsn)},
            "enable_otlp": False,
            "scheduler_polling_interval_sec": 3600.0,
        }
        _into_our_log()
        self._engine = DBOS(config=config)

        async def pipeline(job_id: str) -> None:  # a function of its own: the engine marks what it is given
            await self.take_up(job_id)

        DBOS.workflow(name=WORKFLOW, max_recovery_attempts=MOST_ATTEMPTS * 5)(pipeline)
        DBOS.launch()
        for pool in sorted({queue_of(one) for one in self.pipelines.values()}):
            await DBOS.register_queue_async(
                pool, partition_concurrency=1, polling_interval_sec=POLL_SECONDS, on_conflict="never_update"
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        """What runs here is left as it is: another orchestrator takes it up, or this one when it is back."""
        await end([here.task for here in self._here.values()], STOPPING)
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
        added = await self._store.add(job_id, wanted, self._by)
        if added.begun:
            if wanted.way == "wait":
                self._waited[job_id] = asyncio.get_running_loop().create_future()
            if wanted.way == "stream":
                self._hub.expect(job_id)
            if held:
                self._held[job_id] = held
            self._start(job_id, wanted)
        return added.id

    async def enqueue(self, wanted: Wanted, places: int) -> str:
        """Begin a run in this process where its pool has a place for it, of so many `places`; else queue it for
        whichever orchestrator is free: the row and its place in the queue come to be together."""
        job_id, name = new_job_id(), queue_of(self.pipelines[wanted.pipeline])
        sharing = [one.name for one in self.pipelines.values() if queue_of(one) == name]
        statement = queued(job_id, name, wanted.caller.key.tenant, wanted.priority)
        room = 0 if self._rests_until else places
        added = await self._store.add(job_id, wanted, self._by, Queue(statement, sharing, room))
        if added.begun:
            self._start(job_id, wanted)
        return added.id

    def _start(self, job_id: str, wanted: Wanted) -> None:
        task = asyncio.create_task(self._carry_out(begun(job_id, wanted)), name=job_id)
        self._here[job_id] = _Here(task, wanted.way)

    def here(self) -> list[str]:
        """The runs at work in this process."""
        return list(self._here)

    def way(self, job_id: str) -> Way | None:
        """How a run that is at work in this process was called; None where it is not."""
        here = self._here.get(job_id)
        return here.way if here else None

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

    async def take_up(self, job_id: str) -> None:
        """The workflow: called by the durable engine, again where a process died before its end."""
        taken = await _until_there(lambda: self._store.begin(job_id, self._by))
        if taken is None:
            return
        if taken.attempts > 1:
            AGAIN.labels(taken.pipeline).inc()
        await self._carry_out(taken)

    async def _carry_out(self, taken: Taken) -> None:
        task = asyncio.current_task()
        assert task is not None
        here = self._here[taken.id] = _Here(task, taken.way)
        flow = Durable(taken, self._teller, self._turns, self._held.get(taken.id, {}), self._tracing)
        began = time.perf_counter()
        how: End | None = None
        try:
            found = await self._run(taken, flow)
            here.ending = True
            how = await self._end(flow, found)
        except LostError:
            log.info("a run was ended, or taken up elsewhere", extra={"job": taken.id})
        finally:
            if self._here.get(taken.id) is here:  # taken for dead, this process may have taken up its own run
                del self._here[taken.id]
            self._held.pop(taken.id, None)
            self._hub.over(taken.id)
            waited = self._waited.get(taken.id)
            if waited is not None and not waited.done():
                waited.set_result(how)
        RUNS.labels(taken.pipeline, taken.way, how.state if how else "cancelled").observe(time.perf_counter() - began)

    async def _end(self, flow: Durable, found: End) -> End:
        """How it ended, as it is kept: as failed, where the database refuses what it came to. Raises LostError."""
        try:
            await flow.end(found)
        except SoundstageError as exc:
            found = End("failed", None, kept_error(exc), flow.tokens, flow.image_steps, exc)
            await flow.end(found)
        return found

    async def _run(self, taken: Taken, flow: Durable) -> End:
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
        except LostError:
            raise
        except Exception as exc:  # noqa: BLE001 - the outermost of a run
            log.error("a run failed", extra={"job": taken.id, **where(exc)})
            return End("failed", None, kept_error(internal()), flow.tokens, flow.image_steps)


async def _until_there(ask: Any) -> Any:
    """The answer of the database, however long it is away."""
    while True:
        try:
            return await ask()
        except DATABASE_AWAY as exc:
            log.warning("the database is away; a run waits", extra={"reason": exc})
            await asyncio.sleep(RETRY_SECONDS)


def queue_of(pipeline: Pipeline) -> str:
    """The queue of its background jobs: one for each pool of image workers."""
    return pipeline.role or "images"


def queued(job_id: str, queue: str, tenant: str | None, priority: int) -> tuple[str, tuple[Any, ...]]:
    """The statement that queues a run: the durable engine's own function, so that it joins our transaction. The line of
    a `tenant` is one of the pools' queues; the engine's own has none."""
    statement = (
        "select dbos.enqueue_workflow(workflow_name => %s, queue_name => %s, workflow_id => %s, app_version => %s,"
        " positional_args => array[to_json(%s::text)], priority => %s, queue_partition_key => %s,"
        " application_name => %s)"
    )
    return statement, (WORKFLOW, queue, job_id, VERSION, job_id, 10 - priority, tenant, NAME)


def caller_of(taken: Taken) -> Caller:
    """Who asked, as it was when they did; until when is the run's own deadline."""
    kept = taken.caller
    own, tenants = (Limits.model_validate(found or {}) for found in (taken.limits, taken.tenant_limits))
    key = Key(taken.key_id, taken.tenant, frozenset(kept["scopes"]), kept["max_tier"], None, own, tenants)
    until = asyncio.get_running_loop().time() + taken.seconds_left
    return Caller(
        *(key, kept["request_id"], kept["route"], kept["session"], kept["asked_tier"], False, until),
        trace=kept.get("trace"),
        priority=taken.priority,
    )


def connecting(dsn: str) -> Callable[[], psycopg.Connection[Any]]:
    """What connects the durable engine. It waits for a database that is away where it knows the error by its words, and
    ends the run where it does not: libpq has other words for an address that it tried in several ways."""

    def connect() -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(dsn, connect_timeout=CONNECT_SECONDS, application_name=NAME)
        except psycopg.OperationalError as exc:
            raise psycopg.OperationalError(f"connection failed: {exc}") from exc

    return connect


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
