"""Places at workers: who gets one now, who waits for one, who is told to come again.

A pool (worker.py) is the workers that answer for one model name with one ability. Its limit is what they declare; in
front of it stands a bounded, fair queue (queue.py). Here the deciders' word is carried out.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, get_args

import aiohttp
import httpx2
from prometheus_client import Counter, Histogram

from core.errors import Overloaded, SoundstageError, Unavailable, Upstream
from core.wire.workers import Ability, Kind
from orchestrator.workers import queue as admission
from orchestrator.workers.groups import Groups
from orchestrator.workers.queue import Ticket
from orchestrator.workers.routing import AWAY
from orchestrator.workers.rules import Rules
from orchestrator.workers.worker import Ask, Pool, Worker

QUEUE_WAIT = Histogram(
    "soundstage_queue_wait_seconds",
    "How long requests waited for a place at a worker.",
    ["ability"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
QUEUE_POSITION = Histogram(
    "soundstage_queue_position",
    "How many were before a request when it began to wait.",
    ["ability"],
    buckets=(0, 1, 2, 5, 10, 20, 50, 100, 200, 500),
)
REFUSED = Counter("soundstage_admission_refused_total", "Requests that got no place.", ["ability", "reason"])
SURE = 0.8
"""Of the time that somebody may wait: a longer wait is refused at once, for what is expected may be too little."""
EJECTED = Counter("soundstage_breaker_opened_total", "Times that a worker's breaker opened.", ["kind"])


class Waiting(Ticket):
    """A request in a queue; `place` is resolved with what it gets."""

    __slots__ = ("ask", "place", "pool")

    def __init__(self, ask: Ask, pool: "Pool") -> None:
        super().__init__(ask.tenant, ask.cost(), ask.priority)
        self.ask = ask
        self.place: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self.wait_for(pool)

    def wait_for(self, pool: "Pool") -> None:
        self.pool = pool
        pool.queue.add(self)


class Place:
    """One place at a worker, until its block ends; what became of the request is told to the breaker."""

    __slots__ = ("_failed", "_pools", "_started", "_until", "worker")

    def __init__(self, pools: "Pools", worker: Worker, until: float) -> None:
        """`until`: when the caller has no more use for it; what fails after that is no fault of the worker's."""
        self.worker, self._until, self._pools = worker, until, pools
        self._failed = False
        self._started = time.monotonic()
        worker.outstanding += 1
        worker.breaker.begins(self._started)
        for pool, _ in worker.seats:
            pool.taken += 1
        pools.refresh(worker)

    def __enter__(self) -> Worker:
        return self.worker

    def failed(self) -> None:
        """The worker answered, and badly: a 5xx, or a stream that broke."""
        self._failed = True

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        worker, now = self.worker, time.monotonic()
        worker.outstanding -= 1
        for pool, _ in worker.seats:
            pool.taken -= 1
        bad = self._failed or isinstance(exc, Unavailable | Upstream)
        late = self._until != AWAY and asyncio.get_running_loop().time() >= self._until
        if bad and not late:
            self._pools.failed(worker, now, surely=nobody_listens(exc))
        elif bad or (exc is not None and not isinstance(exc, SoundstageError)):
            worker.breaker.abandoned()  # its time was up, the client left, or the fault was ours
        else:
            worker.service = worker.service.after(now - self._started)
            if worker.breaker.failing or worker.breaker.trying:
                worker.breaker.succeeded()
        self._pools.freed(worker)


class Pools:
    """Places at all `workers`. One for each process."""

    def __init__(self, rules: Rules, workers: Callable[[], Iterable[Worker]]) -> None:
        self._rules = rules
        self._groups = Groups(rules, workers, self.refresh)

    def changed(self) -> None:
        """Workers came, went, or serve other models."""
        self._groups.stale = True
        if any(len(pool.queue) for pool in self._groups.pools()):
            self._regroup()

    def _regroup(self) -> None:
        """Who waits goes on waiting, in the pools that are there now."""
        waiting = sorted((ticket for pool in self._groups.pools() for ticket in pool.queue), key=lambda t: t.number)
        self._groups.rebuild()
        for ticket in waiting:
            assert isinstance(ticket, Waiting)
            ticket.wait_for(self.pool(ticket.ask) or self._groups.nowhere())
        for pool in self._groups.pools():
            while self._serve(pool):
                pass

    def pool(self, ask: Ask) -> Pool | None:
        """The workers known for this, usable or not; of those with its role, where one of them is usable."""
        if self._groups.stale:
            self._regroup()
        return self._groups.pool(ask)

    def model_of(self, ask: Ask) -> str | None:
        """The model of the worker that would be asked now or, where all are full, of one that is there."""
        pool, now = self.pool(ask), time.monotonic()
        if pool is None:
            return None
        worker = pool.pick(ask) or next((w for w in pool.members if w.usable(now)), None)
        return worker.first(ask.ability) if worker else None

    # -- taking a place -------------------------------------------------------------------------------------------

    async def take(self, ask: Ask) -> Place:
        """A place at a worker, at once or after a bounded wait in a fair queue. Raises Unavailable (nobody serves this
        now) and Overloaded (no room to wait, or it would take too long)."""
        pool = self.pool(ask)
        if pool is None:
            raise _nobody(ask.ability)
        place = None if len(pool.queue) else self._now(pool, ask)
        return place if place is not None else await self._wait(pool, ask)

    async def take_other(self, ask: Ask, tried: Collection[str]) -> Place | None:
        """A place at a worker that was not tried yet, if there is one. Where those are full it is waited for, but only
        once nobody else would get it: the tried ones must be ejected."""
        pool = self.pool(ask)
        if pool is None:
            return None
        place = self._now(pool, ask, tried)
        if place is not None:
            return place
        now = time.monotonic()
        asked = {worker.id for worker in pool.members if worker.usable(now) and worker.breaker.lets_in(now)}
        return await self._wait(pool, ask) if asked and asked.isdisjoint(tried) else None

    def _now(self, pool: Pool, ask: Ask, tried: Collection[str] = ()) -> Place | None:
        while (worker := pool.pick(ask, tried)) is not None:
            if worker.live_until > time.monotonic():
                return Place(self, worker, ask.until)
            self.refresh(worker)  # its lease ran out since
        return None

    async def _wait(self, pool: Pool, ask: Ask) -> Place:
        loop = asyncio.get_running_loop()
        began = loop.time()
        longest = min(self._rules.queue_seconds, ask.until - began)
        self._may_wait(pool, ask, longest)
        QUEUE_POSITION.labels(ask.ability).observe(pool.queue.ahead(ask.tenant))
        ticket = Waiting(ask, pool)
        timer = loop.call_at(began + longest, self._too_late, ticket)
        try:
            return await ticket.place
        except asyncio.CancelledError:
            if ticket.place.done() and not ticket.place.cancelled() and ticket.place.exception() is None:
                with ticket.place.result():
                    pass  # given in the moment in which the client left
            raise
        finally:
            timer.cancel()
            if not ticket.gone:
                ticket.pool.queue.discard(ticket)
            waited = loop.time() - began
            QUEUE_WAIT.labels(ask.ability).observe(waited)
            ask.waited(waited)

    def _may_wait(self, pool: Pool, ask: Ask, longest: float) -> None:
        """Raises at once where waiting is of no use."""
        if not pool.places:
            raise _nobody(ask.ability)
        wait = pool.wait(ask.tenant)
        if not pool.queue.has_room(ask.tenant):
            raise self._full(ask, "queue_full", wait)
        if wait > longest * SURE:
            raise self._full(ask, "too_late", wait)

    def _full(self, ask: Ask, reason: str, wait: float) -> Overloaded:
        REFUSED.labels(ask.ability, reason).inc()
        after = admission.retry_after(wait, self._rules.retry_after_cap)
        return Overloaded("Every worker for this model is full.", code="workers_full", retry_after=after)

    def _too_late(self, ticket: Waiting) -> None:
        if not ticket.place.done():
            wait = ticket.pool.wait(ticket.tenant)
            ticket.place.set_exception(self._full(ticket.ask, "waited_too_long", wait))

    # -- what changes at a worker ---------------------------------------------------------------------------------

    def refresh(self, worker: Worker) -> None:
        """Note its load in its pools."""
        now = time.monotonic()
        usable = worker.usable(now)
        takes = usable and worker.breaker.lets_in(now)
        load = worker.load() if takes else AWAY
        for pool, at in worker.seats:
            pool.note(at, load, worker.capacity if usable else 0)

    def freed(self, worker: Worker) -> None:
        """It may have room: note its load, and let in who waits."""
        self.refresh(worker)
        while waiting := [pool for pool, _ in worker.seats if len(pool.queue)]:
            pool = min(waiting, key=lambda each: each.queue.oldest() or 0)
            if not self._serve(pool):
                return

    def _serve(self, pool: Pool) -> bool:
        """Whether somebody of its queue got a place."""
        if not len(pool.queue) or (worker := pool.pick(_ANY)) is None:
            return False
        ticket = pool.queue.take(time.monotonic())
        assert isinstance(ticket, Waiting)
        if not ticket.place.done():
            ticket.place.set_result(Place(self, worker, ticket.ask.until))
        return True

    def probe_answered(self, worker: Worker, *, ready: bool) -> None:
        """It answered a probe, and said whether it is ready."""
        if worker.breaker.answered() or worker.probed != ready:
            worker.probed = ready
            worker.reckon()
            self.freed(worker)

    def probe_failed(self, worker: Worker, *, surely: bool) -> None:
        """It did not answer a probe; `surely`: nobody listens there."""
        if worker.breaker.lets_in(now := time.monotonic()):
            self.failed(worker, now, surely=surely, unreached=True)
            self.refresh(worker)

    def failed(self, worker: Worker, now: float, *, surely: bool = False, unreached: bool = False) -> None:
        """A request or a probe of it failed."""
        seconds = worker.breaker.failed(now, surely=surely, unreached=unreached)
        if seconds is not None:
            EJECTED.labels(worker.announcement.kind).inc()
            asyncio.get_running_loop().call_later(seconds + 0.001, self.freed, worker)

    def depth(self) -> dict[Kind, int]:
        """How many wait, by kind of worker."""
        found: dict[Kind, int] = dict.fromkeys(get_args(Kind), 0)
        for pool in self._groups.pools():
            if pool.members:
                found[pool.members[0].announcement.kind] += len(pool.queue)
        return found


_ANY = Ask(None, "chat")


def _nobody(ability: Ability) -> Unavailable:
    return Unavailable(f"No worker for {ability} can answer right now.", code="no_worker", retry_after=2)


def nobody_listens(exc: BaseException | None) -> bool:
    """Whether the connection itself was refused."""
    cause: Any = exc.__cause__ if exc is not None else None
    if isinstance(cause, aiohttp.ClientConnectorError | httpx2.ConnectError):
        return True
    return isinstance(cause.__cause__, httpx2.ConnectError) if cause is not None else False
