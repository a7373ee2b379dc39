"""A run that outlives its process: each step's result is kept, its events are told."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import psycopg
from prometheus_client import Counter, Histogram

from core.db.errors import AWAY_CODES
from core.db.plain import plain, where
from core.errors import ContentPolicy, Overloaded, SoundstageError, Unavailable, internal
from orchestrator.access.payments import Step, paying
from orchestrator.jobs.events import EventNumber, EventWriter, NewEvent
from orchestrator.jobs.values import Claim, End
from orchestrator.operate.tracing import Tracing
from orchestrator.pipelines.flow import COMPLETED, STARTED, current_step, of_memory, step_key, within
from orchestrator.policy.decide import CHECK_FAILED

log = logging.getLogger(__name__)

T = TypeVar("T")

SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
STEPS = Histogram(
    "soundstage_pipeline_step_seconds",
    "Seconds that a step of a pipeline took.",
    ["pipeline", "step", "outcome"],
    buckets=SECONDS,
)
RETRIES = Counter("soundstage_pipeline_step_retries_total", "Steps done again in place.", ["pipeline", "step", "why"])
LOST_SECONDS = 120.0  # how long a step whose worker died under it is asked for again, where somebody waits: an
# engine that is started again loads its model first
UNREAD_SECONDS = 20.0  # how long a step waits for a policy that cannot be read, before it is refused
PAUSES = (0.5, 30.0)  # seconds; least and longest wait before a full pool is asked again


def span(tracing: Tracing | None, claim: Claim, step: str | None = None) -> AbstractContextManager[None]:
    """A span around a run, or around one of its steps; nothing where traces are off."""
    if tracing is None:
        return nullcontext()
    fields = {"gen_ai.workflow.name": claim.pipeline, "soundstage.job": claim.id, "soundstage.way": claim.way}
    fields |= {"soundstage.step": step} if step else {}
    operation = "invoke_workflow" if step is None else "workflow_step"
    return tracing.work(operation, step or claim.pipeline, fields, claim.caller.trace)


class Turns:
    """Steps begin one after another, each in a turn of the event loop of its own. Where many runs are at work, what is
    short (a new request, an event on its way) so never stands behind all of them. One for each process."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def mine(self) -> None:
        """Return when it is a step's turn to begin."""
        async with self._lock:
            await asyncio.sleep(0)


class LostError(Exception):
    """The run is another process's now, or was ended: what this one still does for it is not kept."""


class DurableFlow:
    """The Flow that pipelines run on. What it promises is in orchestrator/pipelines/flow.py.

    A finished step is kept as the event that tells of it. The next step begins only when that is kept: the event of its
    own start goes to the database in the same statement, and the run's end in that of its last step.
    """

    outlives = True

    def __init__(
        self,
        claim: Claim,
        writer: EventWriter,
        turns: Turns,
        held: Mapping[str, bytes],
        tracing: Tracing | None = None,
    ) -> None:
        self.id = claim.id
        self.again = claim.attempt > 1
        self.tokens = self.image_steps = 0
        self._claim = claim
        self._writer = writer
        self._turns = turns
        self._held = held
        self._tracing = tracing
        self._emitted: dict[str, int] = {}
        self._last: EventNumber | None = None  # of the steps that were finished here

    async def step(self, name: str, do: Callable[[str], Awaitable[T]]) -> T:
        result: T
        if name in self._claim.finished:
            result = self._claim.finished[name]
        else:
            await self._put(f"{name}/{STARTED}", STARTED, {"step": name})
            await self._last_is_kept()
            await self._turns.mine()
            result = await self._do(name, do)
            self._last = await self._put(f"{name}/{COMPLETED}", COMPLETED, {"step": name, "result": result})
        self._count(result)
        return result

    async def _last_is_kept(self) -> None:
        """Return when the steps that were finished here are kept. Raises LostError where they are not."""
        if self._last is not None and await asyncio.shield(self._last) is None:
            raise LostError

    async def end(self, how: End) -> None:
        """Keep how it ended. Raises LostError where it had ended otherwise, or another process has it."""
        name, data = how.event
        self._last = await self._writer.put(NewEvent(self.id, self._claim.attempt, "end", name, data, how.record))
        await self._last_is_kept()

    async def emit(self, event: str, data: Mapping[str, Any]) -> None:
        key = f"{current_step()}/{event}"
        number = self._emitted[key] = self._emitted.get(key, 0) + 1
        await self._put(f"{key}/{number}", event, data)

    def held(self, name: str) -> bytes:
        return of_memory(self._held, name)

    async def _put(self, key: str, event: str, data: Mapping[str, Any]) -> EventNumber:
        return await self._writer.put(NewEvent(self.id, self._claim.attempt, key, event, plain(data)))

    def _count(self, result: Any) -> None:
        cost = result.get("cost") if isinstance(result, dict) else None
        if isinstance(cost, dict):
            self.tokens += int(cost.get("tokens") or 0)
            self.image_steps += int(cost.get("image_steps") or 0)

    async def _do(self, name: str, do: Callable[[str], Awaitable[Any]]) -> Any:
        """What the step returns, as it is kept. What it raises is not kept: taken up again, the step is done again."""
        began, outcome, label = time.perf_counter(), "cancelled", name.partition(".")[0]
        try:
            paid = paying(Step(tried_elsewhere=self._claim.attempt > 1))
            with within(name), span(self._tracing, self._claim, name), paid:
                result = plain(await self._patiently(do, name))
            outcome = "completed"
            return result
        except SoundstageError as exc:
            outcome = "refused" if exc.status == 422 else "failed"
            raise
        except Exception as exc:
            outcome = "failed"
            log.error("a step failed", extra={"job": self.id, "step": name, **where(exc)})
            raise internal() from exc  # a bug of ours: the run fails by itself, not its process
        finally:
            STEPS.labels(self._claim.pipeline, label, outcome).observe(time.perf_counter() - began)

    async def _patiently(self, do: Callable[[str], Awaitable[Any]], name: str) -> Any:
        """A background job comes again where a pool is full or empty, until its deadline; with everyone, a step whose
        worker died under it is asked for again, at once and then for a while, a policy that cannot be read is looked at
        again as long, and a database that is away is waited for. The key is the same, so a worker that had finished
        repeats nothing."""
        lost_at: float | None = None
        unread_at: float | None = None
        while True:
            try:
                return await do(step_key(self.id, name))
            except psycopg.OperationalError as exc:
                log.warning("the database is away; a step waits", extra={"job": self.id, "reason": exc})
                await asyncio.sleep(PAUSES[0])
            except ContentPolicy as exc:
                now = time.monotonic()
                unread_at = unread_at or now
                if exc.code != CHECK_FAILED or now - unread_at > UNREAD_SECONDS:
                    raise
                await asyncio.sleep(PAUSES[0])
            except (Overloaded, Unavailable) as exc:
                if exc.code in AWAY_CODES:
                    await asyncio.sleep(PAUSES[0])
                    continue
                now, lost = time.monotonic(), exc.code == "engine_unavailable"
                first = lost and lost_at is None
                lost_at = now if first else lost_at
                if self._claim.way != "background" and (lost_at is None or now - lost_at > LOST_SECONDS):
                    raise
                self.again = self.again or lost
                RETRIES.labels(self._claim.pipeline, name.partition(".")[0], "lost" if lost else "full").inc()
                least, longest = PAUSES
                await asyncio.sleep(0 if first else min(longest, max(least, exc.retry_after or 0)))
