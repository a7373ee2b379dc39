"""Take jobs from a queue, and run so many at once (runner.py says how each is run)."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from prometheus_client import Gauge

from core.db.pool import Pool
from core.errors import Forbidden, Unauthenticated, Unavailable
from core.keys import read_or_make
from core.metrics import same_everywhere
from orchestrator.access.keys import Keys
from orchestrator.legacy.queue_commands import Commands, QueueAwayError, over_redis, over_upstash
from orchestrator.legacy.queue_ledger import Ledger
from orchestrator.legacy.queue_runner import AWAY, AWAY_SECONDS, Handler, JobRunner, Queue, Rules
from orchestrator.legacy.queue_sources import ListSource, Source, StreamSource
from orchestrator.operate.seal import Seal
from orchestrator.runs.caller import Caller
from orchestrator.settings import OrchestratorSettings

log = logging.getLogger(__name__)

LAG = same_everywhere(Gauge("soundstage_queue_lag", "Jobs that wait in the queue."))
RUNNING = Gauge("soundstage_queue_running", "Jobs of the queue that run here.")
HOUR = 3600.0
Connect = Callable[[], AbstractAsyncContextManager[Commands]]


class Intake:
    """One for each process."""

    def __init__(
        self,
        rules: Rules,
        ledger: Ledger,
        connect: Connect,
        *,
        handler: Handler,
        caller: Callable[[str], Awaitable[Caller]],
    ) -> None:
        self.rules, self._ledger, self._connect = rules, ledger, connect
        self._handler, self._caller = handler, caller
        self._running: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; then no job is taken any more, and those that run may end."""
        async with self._connect() as commands:
            source = source_over(commands, self.rules, self._ledger.holder)
            runner = JobRunner(
                self.rules, Queue(source, commands), self._ledger, handler=self._handler, caller=self._caller
            )
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._upkeep(source))
                    await self._take_for_ever(source, runner)
            finally:
                await asyncio.shield(self._drain())

    async def _take_for_ever(self, source: Source, runner: JobRunner) -> None:
        opened = False
        while True:
            _unless_cancelled()
            try:
                if not opened:
                    await source.open()
                    opened = True
                if not await self._fill(source, runner):
                    await asyncio.sleep(self.rules.poll)
            except QueueAwayError as exc:
                log.warning("the queue does not answer", extra={"queue": self.rules.name, "reason": exc})
                await asyncio.sleep(AWAY_SECONDS)

    async def _fill(self, source: Source, runner: JobRunner) -> bool:
        """Take as many as there is room for; false where the queue was empty."""
        self._freed.clear()
        room = self.rules.concurrency - len(self._running)
        if room <= 0:
            await self._freed.wait()
            return True
        taken = await source.take(room)
        for delivery in taken:
            task = asyncio.ensure_future(runner.deliver(delivery))
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

    async def _upkeep(self, source: Source) -> None:
        """Let come again what a dead consumer held, measure the lag, forget old jobs."""
        pause, passed = min(self.rules.visibility / 3, self.rules.poll), HOUR
        while True:
            _unless_cancelled()
            try:
                await source.reap()
                LAG.set(await source.waiting())
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


def source_over(commands: Commands, rules: Rules, consumer: str) -> Source:
    if rules.kind == "stream":
        return StreamSource(commands, rules.name, rules.dead_letter, visibility=rules.visibility, consumer=consumer)
    return ListSource(commands, rules.name, rules.dead_letter, visibility=rules.visibility, end=rules.end)


def intake_of(settings: OrchestratorSettings, pool: Pool, seal: Seal, *, keys: Keys, handler: Handler) -> Intake | None:
    """The intake that the settings ask for; None where they name no queue, or no Redis."""
    connect = _connection(settings) if settings.queue_name else None
    if connect is None:
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
    ledger = Ledger(pool, seal, rules.name, rules.visibility)
    return Intake(rules, ledger, connect, handler=handler, caller=lambda job: _caller(settings, keys, job))


def _connection(settings: OrchestratorSettings) -> Connect | None:
    if settings.queue_url is not None:
        url = settings.queue_url.get_secret_value()
        return lambda: over_redis(url)
    if settings.upstash_redis_rest_url and settings.upstash_redis_rest_token:
        rest, token = settings.upstash_redis_rest_url, settings.upstash_redis_rest_token.get_secret_value()
        return lambda: over_upstash(rest, token)
    log.error("QUEUE_NAME is set, and neither QUEUE_URL nor UPSTASH_REDIS_REST_URL with its token: no jobs")
    return None


async def _caller(settings: OrchestratorSettings, keys: Keys, job: str) -> Caller:
    """For whom queued jobs run: QUEUE_API_KEY, else the local key."""
    given = settings.queue_api_key
    secret = given.get_secret_value() if given else read_or_make(settings.data_dir.resolve() / "keys" / "local_api_key")
    try:
        key = await keys.authenticate([(b"authorization", f"Bearer {secret}".encode())])
        key.require("chat")
    except (Unauthenticated, Forbidden) as exc:  # the operator's mistake: no job fails for good by it
        raise Unavailable(f"The key of queued jobs is refused: {exc.message}", code="queue_key") from exc
    return Caller(key, f"queue-{os.urandom(8).hex()}", "queue", job[:200])


def _unless_cancelled() -> None:
    """A client library may catch a cancellation together with its own timeout; the task remembers it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
