"""One job from its delivery to its acknowledgement.

It is acknowledged only when its end is recorded and its result is written. Who dies before that lets it come again; the
ledger then knows whether it ended. One that was begun `tries` times and never ended is poison: it is buried.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec
import psycopg
from prometheus_client import Counter

from core.db.errors import DATABASE_AWAY
from core.errors import InvalidRequest, SoundstageError, Unprocessable, internal
from core.pure import legacy_body
from core.repeat import every, meanwhile
from orchestrator.legacy import queue_job as jobs
from orchestrator.legacy.queue_commands import Commands, QueueAwayError
from orchestrator.legacy.queue_job import Job
from orchestrator.legacy.queue_ledger import Claim, Ledger
from orchestrator.legacy.queue_sources import Delivery, End, Source
from orchestrator.runs.caller import Caller

log = logging.getLogger(__name__)

JOBS = Counter("soundstage_queue_jobs_total", "Jobs of the queue, by what became of them.", ["outcome"])
AWAY_SECONDS = 2.0
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


@dataclass(frozen=True)
class Queue:
    """What a connection to the queue gives: its jobs, and a place for their results."""

    source: Source
    commands: Commands


class JobRunner:
    """Runs the jobs of one queue, each by `deliver`."""

    def __init__(
        self,
        rules: Rules,
        queue: Queue,
        ledger: Ledger,
        *,
        handler: Handler,
        caller: Callable[[str], Awaitable[Caller]],
    ) -> None:
        self._rules, self._ledger, self._handler, self._caller = rules, ledger, handler, caller
        self._source, self._commands = queue.source, queue.commands
        self._at_work: set[str] = set()  # the ids of the jobs that run here

    async def deliver(self, delivery: Delivery) -> None:
        """With queue or database away it stays held, and comes again."""
        try:
            await self._deliver(delivery)
        except AWAY as exc:
            log.warning("a job was left half way; it comes again", extra={"reason": exc})
            JOBS.labels("left").inc()

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            job = jobs.read(delivery.text)
        except Unprocessable as exc:
            log.warning("not a job; buried", extra={"reason": exc.message})
            JOBS.labels("malformed").inc()
            await self._source.bury(delivery)
            return
        if job.id in self._at_work:  # also where the ledger was not told of it in time
            await self._wait_for_turn(delivery)
            return
        self._at_work.add(job.id)
        try:
            await self._first_delivery(delivery, job)
        finally:
            self._at_work.discard(job.id)

    async def _wait_for_turn(self, delivery: Delivery) -> None:
        """Another delivery of the same job runs, and may end it meanwhile."""
        JOBS.labels("busy").inc()
        await asyncio.sleep(self._rules.poll)
        await self._source.again(delivery)

    async def _first_delivery(self, delivery: Delivery, job: Job) -> None:
        """Of those that are here."""
        claim = await self._ledger.begin(job.id)
        if claim.state == "busy":
            await self._wait_for_turn(delivery)
        elif claim.state != "mine":
            JOBS.labels("seen").inc()
            await self._acknowledge(delivery, job, claim.result or {})
        elif claim.tries > self._rules.tries:
            await self._bury(delivery, job, {"message": f"It was begun {claim.tries - 1} times and never ended."})
        else:
            async with meanwhile(self._renewals(delivery, job)):
                await self._work(delivery, job, claim)

    async def _renewals(self, delivery: Delivery, job: Job) -> None:
        """So that a long job is not given to another."""

        async def renew() -> None:
            with contextlib.suppress(*AWAY):
                await self._ledger.hold(job.id)
            await self._source.hold(delivery)

        pause = self._rules.visibility / 3
        await every(pause, renew, failing="a job's lease is not renewed", away=AWAY, at_once=False)

    async def _work(self, delivery: Delivery, job: Job, claim: Claim) -> None:
        tenant: str | None = None
        try:
            caller = await self._caller(job.id)
            tenant = caller.key.tenant
            result = {"success": True, "id": job.id, "result": await self._handler.run(job, caller)}
        except asyncio.CancelledError:
            with contextlib.suppress(*AWAY):
                await asyncio.shield(self._give_back(delivery, job))
            raise
        except InvalidRequest as exc:  # it would be refused again
            await self._end(delivery, job, "failed", {**legacy_body(exc), "id": job.id}, tenant)
        except AWAY:
            raise
        except Exception as exc:  # noqa: BLE001 - the outermost loop of a job: it is told, counted, tried again
            error = exc if isinstance(exc, SoundstageError) else internal()
            log.warning("a job failed", extra={"job": job.id, "try": claim.tries, "reason": repr(exc)[:300]})
            if claim.tries >= self._rules.tries:
                await self._bury(delivery, job, error.envelope()["error"])
                return
            JOBS.labels("again").inc()
            try:
                await asyncio.sleep(self._rules.poll * claim.tries)  # what was away may be back then
            finally:
                await asyncio.shield(self._give_back(delivery, job))
        else:
            await self._end(delivery, job, "done", result, tenant)

    async def _give_back(self, delivery: Delivery, job: Job) -> None:
        await self._ledger.let_go(job.id)
        await self._source.again(delivery)

    async def _end(
        self, delivery: Delivery, job: Job, state: Literal["done", "failed"], result: dict[str, Any], tenant: str | None
    ) -> None:
        if await self._record_end(job, state, result, tenant):
            JOBS.labels(state).inc()
            await self._acknowledge(delivery, job, result)

    async def _bury(self, delivery: Delivery, job: Job, error: dict[str, Any]) -> None:
        result = {"success": False, "id": job.id, "error": error}
        if await self._record_end(job, "failed", result):
            JOBS.labels("buried").inc()
            await self._write(job, result)
            await self._source.bury(delivery)

    async def _record_end(
        self, job: Job, state: Literal["done", "failed"], result: dict[str, Any], tenant: str | None = None
    ) -> bool:
        """Whether this is how the job ended. Work that is done is not done again because the database is away or its
        connections are all taken: it is held meanwhile, and recorded when the database is back."""
        while True:
            try:
                return await self._ledger.end(job.id, state, result, tenant)
            except AWAY as exc:
                log.warning("a job's end is not kept; trying again", extra={"job": job.id, "reason": exc})
                await asyncio.sleep(min(self._rules.poll, AWAY_SECONDS))

    async def _acknowledge(self, delivery: Delivery, job: Job, result: dict[str, Any]) -> None:
        await self._write(job, result)
        await self._source.done(delivery)

    async def _write(self, job: Job, result: dict[str, Any]) -> None:
        text = msgspec.json.encode(result).decode()
        await self._commands.run("SET", self._rules.result_of(job.id), text, "EX", self._rules.result_seconds)
