"""Take jobs from a queue, run so many at once, and write back what became of each.

A job is acknowledged only when its end is recorded and its result is written. Who dies before that lets it come again;
the ledger then knows whether it ended. One that was begun `tries` times and never ended is poison: it is buried.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import psycopg
from prometheus_client import Counter, Gauge

from core.db.errors import DATABASE_AWAY
from core.db.pool import Pool
from core.errors import (
    Forbidden,
    InvalidRequest,
    SoundstageError,
    Unauthenticated,
    Unavailable,
    Unprocessable,
    internal,
)
from core.keys import read_or_make
from core.pure import legacy_body
from orchestrator.access.keys import Keys
from orchestrator.legacy.intake import job as jobs
from orchestrator.legacy.intake.commands import Commands, QueueAwayError, over_redis, over_upstash
from orchestrator.legacy.intake.job import Job
from orchestrator.legacy.intake.ledger import Found, Ledger
from orchestrator.legacy.intake.sources import Delivery, End, ListSource, Source, StreamSource
from orchestrator.operate.seal import Seal
from orchestrator.runs.caller import Caller
from orchestrator.settings import OrchestratorSettings

log = logging.getLogger(__name__)

JOBS = Counter("soundstage_queue_jobs_total", "Jobs of the queue, by what became of them.", ["outcome"])
LAG = Gauge("soundstage_queue_lag", "Jobs that wait in the queue.")
RUNNING = Gauge("soundstage_queue_running", "Jobs of the queue that run here.")
AWAY_SECONDS = 2.0
HOUR = 3600.0
AWAY = (QueueAwayError, psycopg.Error, *DATABASE_AWAY)


class Handler(Protocol):
    async def run(self, job: Job, caller: Caller) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Rules:
    """The settings of one queue. Seconds."""

    name: str
    kind: str = "list"
    end: End = "left"
    poll: float = 3.0
    concurrency: int = 8
    visibility: float = 60.0
    tries: int = 3
    dead: str = ""
    result_key: str = ""
    result_seconds: int = 86_400
    drain: float = 10.0

    @property
    def dead_letter(self) -> str:
        return self.dead or f"{self.name}:dead"

    def result_of(self, job: str) -> str:
        return (self.result_key or f"{self.name}:result:{{id}}").replace("{id}", job)


class Intake:
    """One for each process."""

    def __init__(
        self,
        rules: Rules,
        pool: Pool,
        seal: Seal,
        connect: Callable[[], AbstractAsyncContextManager[Commands]],
        handler: Handler,
        caller: Callable[[str], Any],
    ) -> None:
        self.rules = rules
        self._connect, self._handler, self._caller = connect, handler, caller
        self._me = f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
        self._ledger = Ledger(pool, seal, rules.name, self._me, rules.visibility)
        self._running: set[asyncio.Task[None]] = set()
        self._at_work: set[str] = set()  # the ids of the jobs that run here
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; then no job is taken any more, and those that run may end."""
        async with self._connect() as commands:
            self._commands, self._source = commands, self._source_over(commands)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._upkeep())
                    await self._take_for_ever()
            finally:
                await asyncio.shield(self._drain())

    def _source_over(self, commands: Commands) -> Source:
        rules = self.rules
        if rules.kind == "stream":
            return StreamSource(commands, rules.name, rules.dead_letter, rules.visibility, self._me)
        return ListSource(commands, rules.name, rules.dead_letter, rules.visibility, rules.end)

    async def _take_for_ever(self) -> None:
        opened = False
        while True:
            _unless_cancelled()
            try:
                if not opened:
                    await self._source.open()
                    opened = True
                if not await self._fill():
                    await asyncio.sleep(self.rules.poll)
            except QueueAwayError as exc:
                log.warning("the queue does not answer", extra={"queue": self.rules.name, "reason": exc})
                await asyncio.sleep(AWAY_SECONDS)

    async def _fill(self) -> bool:
        """Take as many as there is room for; false where the queue was empty."""
        self._freed.clear()
        room = self.rules.concurrency - len(self._running)
        if room <= 0:
            await self._freed.wait()
            return True
        taken = await self._source.take(room)
        for delivery in taken:
            task = asyncio.ensure_future(self._deliver(delivery))
            self._running.add(task)
            task.add_done_callback(self._ended)
        RUNNING.set(len(self._running))
        return bool(taken)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a job was left; it comes again", exc_info=error)
        RUNNING.set(len(self._running))
        self._freed.set()

    async def _upkeep(self) -> None:
        """Let come again what a dead consumer held, measure the lag, forget old jobs."""
        pause, passed = min(self.rules.visibility / 3, self.rules.poll), HOUR
        while True:
            _unless_cancelled()
            try:
                await self._source.reap()
                LAG.set(await self._source.waiting())
                if passed >= HOUR:
                    await self._ledger.purge()
                    passed = 0.0
            except AWAY as exc:
                log.info("the queue's upkeep waits", extra={"reason": exc})
            await asyncio.sleep(pause)
            passed += pause

    async def _drain(self) -> None:
        """Those that do not end in time are let go: they come again elsewhere."""
        if self._running:
            await asyncio.wait(self._running, timeout=self.rules.drain)
        left = list(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # -- one job --------------------------------------------------------------------------------------------------

    async def _deliver(self, delivery: Delivery) -> None:
        """From delivery to acknowledgement. With queue or database away it stays held, and comes again."""
        try:
            try:
                job = jobs.read(delivery.text)
            except Unprocessable as exc:
                log.warning("not a job; buried", extra={"reason": exc.message})
                JOBS.labels("malformed").inc()
                await self._source.bury(delivery)
                return
            await self._job(delivery, job)
        except AWAY as exc:
            log.warning("a job was left half way; it comes again", extra={"reason": exc})
            JOBS.labels("left").inc()

    async def _job(self, delivery: Delivery, job: Job) -> None:
        if job.id in self._at_work:  # also where the ledger was not told of it in time
            await self._wait_for_turn(delivery)
            return
        with self._working_on(job.id):
            await self._first_delivery(delivery, job)

    @contextlib.contextmanager
    def _working_on(self, job_id: str) -> Iterator[None]:
        self._at_work.add(job_id)
        try:
            yield
        finally:
            self._at_work.discard(job_id)

    async def _wait_for_turn(self, delivery: Delivery) -> None:
        """Another delivery of the same job runs, and may end it meanwhile."""
        JOBS.labels("busy").inc()
        await asyncio.sleep(self.rules.poll)
        await self._source.again(delivery)

    async def _first_delivery(self, delivery: Delivery, job: Job) -> None:
        """Of those that are here."""
        found = await self._ledger.begin(job.id)
        if found.state == "busy":
            await self._wait_for_turn(delivery)
        elif found.state == "mine" and found.tries > self.rules.tries:
            await self._bury(delivery, job, {"message": f"It was begun {found.tries - 1} times and never ended."})
        elif found.state == "mine":
            async with self._held(delivery, job):
                await self._work(delivery, job, found)
        else:
            JOBS.labels("seen").inc()
            await self._told(delivery, job, found.result or {})

    async def _work(self, delivery: Delivery, job: Job, found: Found) -> None:
        tenant: str | None = None
        try:
            caller = await self._caller(job.id)
            tenant = caller.key.tenant
            result = {"success": True, "id": job.id, "result": await self._handler.run(job, caller)}
        except asyncio.CancelledError:
            with contextlib.suppress(*AWAY):
                await asyncio.shield(self._back(delivery, job))
            raise
        except InvalidRequest as exc:  # it would be refused again
            await self._end(delivery, job, "failed", {**legacy_body(exc), "id": job.id}, tenant)
        except AWAY:
            raise
        except Exception as exc:  # noqa: BLE001 - the outermost loop of a job: it is told, counted, tried again
            error = exc if isinstance(exc, SoundstageError) else internal()
            log.warning("a job failed", extra={"job": job.id, "try": found.tries, "reason": repr(exc)[:300]})
            if found.tries >= self.rules.tries:
                await self._bury(delivery, job, error.envelope()["error"])
            else:
                JOBS.labels("again").inc()
                try:
                    await asyncio.sleep(self.rules.poll * found.tries)  # what was away may be back then
                finally:
                    await asyncio.shield(self._back(delivery, job))
        else:
            await self._end(delivery, job, "done", result, tenant)

    async def _end(self, delivery: Delivery, job: Job, state: Any, result: dict[str, Any], tenant: str | None) -> None:
        if await self._kept(job, state, result, tenant):
            JOBS.labels(state).inc()
            await self._told(delivery, job, result)

    async def _kept(self, job: Job, state: Any, result: dict[str, Any], tenant: str | None = None) -> bool:
        """Whether this is how the job ended. Work that is done is not done again because the database is away or its
        connections are all taken: it is held meanwhile, and kept when the database is back."""
        while True:
            try:
                return await self._ledger.end(job.id, state, result, tenant)
            except AWAY as exc:
                log.warning("a job's end is not kept; trying again", extra={"job": job.id, "reason": exc})
                await asyncio.sleep(min(self.rules.poll, AWAY_SECONDS))

    async def _bury(self, delivery: Delivery, job: Job, error: dict[str, Any]) -> None:
        result = {"success": False, "id": job.id, "error": error}
        if await self._kept(job, "failed", result):
            JOBS.labels("buried").inc()
            await self._write(job, result)
            await self._source.bury(delivery)

    async def _back(self, delivery: Delivery, job: Job) -> None:
        await self._ledger.let_go(job.id)
        await self._source.again(delivery)

    async def _told(self, delivery: Delivery, job: Job, result: dict[str, Any]) -> None:
        await self._write(job, result)
        await self._source.done(delivery)

    async def _write(self, job: Job, result: dict[str, Any]) -> None:
        text = msgspec.json.encode(result).decode()
        await self._commands.run("SET", self.rules.result_of(job.id), text, "EX", self.rules.result_seconds)

    @contextlib.asynccontextmanager
    async def _held(self, delivery: Delivery, job: Job) -> AsyncIterator[None]:
        """Renewed while the block runs, so that a long job is not given to another."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(self.rules.visibility / 3)
                with contextlib.suppress(*AWAY):
                    await self._ledger.hold(job.id)
                with contextlib.suppress(*AWAY):
                    await self._source.hold(delivery)

        renewing = asyncio.ensure_future(renew())
        try:
            yield
        finally:
            renewing.cancel()


def intake_of(settings: OrchestratorSettings, pool: Pool, keys: Keys, handler: Handler, seal: Seal) -> Intake | None:
    """The intake that the settings ask for; None where they name no queue, or no Redis."""
    if not settings.queue_name:
        return None
    if settings.queue_url is not None:
        url = settings.queue_url.get_secret_value()
        connect = lambda: over_redis(url)  # noqa: E731 - one of two ways to connect
    elif settings.upstash_redis_rest_url and settings.upstash_redis_rest_token:
        rest, token = settings.upstash_redis_rest_url, settings.upstash_redis_rest_token.get_secret_value()
        connect = lambda: over_upstash(rest, token)  # noqa: E731
    else:
        log.error("QUEUE_NAME is set, and neither QUEUE_URL nor UPSTASH_REDIS_REST_URL with its token: no jobs")
        return None
    rules = Rules(
        name=settings.queue_name,
        kind=settings.queue_kind,
        end=settings.queue_end,
        poll=settings.queue_poll_seconds,
        concurrency=settings.queue_concurrency,
        visibility=settings.queue_visibility_seconds,
        tries=settings.queue_tries,
        dead=settings.queue_dead_letter,
        result_key=settings.queue_result_key,
        result_seconds=settings.queue_result_seconds,
        drain=settings.queue_drain_seconds,
    )

    async def caller(job: str) -> Caller:
        given = settings.queue_api_key
        file = settings.data_dir.resolve() / "keys" / "local_api_key"
        secret = given.get_secret_value() if given else read_or_make(file)
        try:
            key = await keys.authenticate([(b"authorization", f"Bearer {secret}".encode())])
            key.require("chat")
        except (Unauthenticated, Forbidden) as exc:  # the operator's mistake: no job fails for good by it
            raise Unavailable(f"The key of queued jobs is refused: {exc.message}", code="queue_key") from exc
        return Caller(key, f"queue-{os.urandom(8).hex()}", "queue", job[:200])

    return Intake(rules, pool, seal, connect, handler, caller)


def _unless_cancelled() -> None:
    """A client library may catch a cancellation together with its own timeout; the task remembers it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
