"""Places at workers: who gets one now, who waits for one, who is told to come again.

A pool is the workers that can stand in for one another: those that answer for one model name with one ability. Its
limit is what they declare; in front of it stands a bounded, fair queue (admission.py); which of them takes a request is
routing.py's to say, and whether one is asked at all, health.py's. Here these decisions are carried out.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import random
from typing import Any, get_args

import aiohttp
import httpx2
from prometheus_client import Counter, Histogram
from yarl import URL

from core.errors import Overloaded, SoundstageError, Unavailable, Upstream, UpstreamTimeout
from core.wire.workers import Ability, Announcement, Kind
from orchestrator import admission, routing
from orchestrator.admission import FairQueue, ServiceTime, Ticket
from orchestrator.health import Breaker
from orchestrator.routing import AWAY, Ring, Strategy

QUEUE_WAIT = Histogram(
    *("soundstage_queue_wait_seconds", "How long requests waited for a place at a worker.", ["ability"]),
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
REFUSED = Counter("soundstage_admission_refused_total", "Requests that got no place.", ["ability", "reason"])
EJECTED = Counter("soundstage_breaker_opened_total", "Times that a worker's breaker opened.", ["kind"])


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request wants. `until`: when its caller has no more use for it, on the event loop's clock, in seconds;
    `cost`: its estimated work; `affinity`: gives the bytes whose owner it should go to, where the pool routes so."""

    model: str | None
    ability: Ability
    role: str | None = None
    tenant: str = "default"
    priority: int = 0
    until: float = AWAY
    cost: Callable[[], float] = lambda: 1.0
    affinity: Callable[[], bytes] = bytes


@dataclass(frozen=True)
class Rules:
    """How pools behave. `queue_max` requests wait for one pool at most, each `queue_seconds` at most."""

    routing: Mapping[Kind, Strategy] = field(default_factory=dict)
    queue_max: int = 512
    queue_seconds: float = 30.0
    role_queue_max: Mapping[str, int] = field(default_factory=dict)
    retry_after_cap: float = 30.0


@dataclass(eq=False)
class Worker:
    """One worker as this orchestrator knows it. `outstanding` counts this orchestrator's own requests."""

    announcement: Announcement
    url: URL
    key: str | None
    live_until: float  # on the monotonic clock
    saved_at: float = AWAY  # when the database last took what is known here; never, of a static worker
    rewrites: dict[str, str] = field(default_factory=dict)  # a name callers use -> the worker's own
    outstanding: int = 0
    service: ServiceTime = field(default_factory=ServiceTime)
    breaker: Breaker = field(default_factory=Breaker)
    seats: list[tuple["Pool", int]] = field(default_factory=list)  # where its load is noted

    def __post_init__(self) -> None:
        self.announced(self.announcement)

    def announced(self, announcement: Announcement) -> None:
        """Take what it says of itself now."""
        self.announcement = announcement
        self.id = announcement.id
        self.capacity = announcement.capacity
        self.open = announcement.ready and not announcement.draining

    def usable(self, now: float) -> bool:
        return self.open and self.live_until > now

    def serves(self, model: str | None, ability: Ability) -> bool:
        """Whether it answers for `model` (None: any) with `ability`."""
        return any(
            ability in served.abilities and model in (None, served.id, *served.aliases)
            for served in self.announcement.models
        )

    def control_tokens(self, model: str) -> list[tuple[str, ...] | None]:
        """Those of each model here that answers to this name."""
        return [m.control_tokens for m in self.announcement.models if model == m.id or model in m.aliases]

    def first(self, ability: Ability) -> str:
        """The model it answers with where the caller names none."""
        return next(model.id for model in self.announcement.models if ability in model.abilities)


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


class Pool:
    """Workers that can stand in for one another, how loaded each is, and who waits for them."""

    def __init__(self, members: Sequence[Worker], strategy: Strategy, queue_max: int) -> None:
        self.members = members
        self.strategy = strategy
        self.queue = FairQueue(queue_max)
        self.loads = [AWAY] * len(members)
        self.places = 0  # requests that its workers take at once
        self._offers = [0] * len(members)
        self.taken = sum(worker.outstanding for worker in members)
        self._last = -1
        self._ring: Ring | None = None
        for at, worker in enumerate(members):
            worker.seats.append((self, at))

    def pick(self, ask: Ask, tried: Collection[str] = ()) -> Worker | None:
        """The worker that takes this; None where none has room."""
        loads = self.loads
        if tried:
            loads = [AWAY if w.id in tried else now for w, now in zip(self.members, loads, strict=True)]
        at = self._at(ask, loads)
        if at is None:
            at = routing.least(self._despite_breakers(tried))
        return None if at is None else self.members[at]

    def _at(self, ask: Ask, loads: Sequence[float]) -> int | None:
        if self.strategy == "affinity":
            self._ring = self._ring or Ring([worker.id for worker in self.members])
            return self._ring.walk(ask.affinity(), loads, self.taken / max(1, self.places))
        if self.strategy == "power_of_two":
            return routing.of_two(loads, random)
        if self.strategy == "round_robin":
            found = routing.in_turn(loads, self._last)
            self._last = self._last if found is None else found
            return found
        return routing.least(loads)

    def _despite_breakers(self, tried: Collection[str]) -> list[float]:
        """The loads where every worker that could serve is ejected: then the last ones are asked all the same."""
        now = time.monotonic()
        usable = [worker.usable(now) for worker in self.members]
        if any(can and w.breaker.lets_in(now) for w, can in zip(self.members, usable, strict=True)):
            return []
        return [
            routing.load(w.outstanding, w.capacity) if can and w.id not in tried else AWAY
            for w, can in zip(self.members, usable, strict=True)
        ]

    def note(self, at: int, load: float, offers: int) -> None:
        """How loaded a worker is now, and how many requests it takes at once."""
        self.loads[at] = load
        self.places += offers - self._offers[at]
        self._offers[at] = offers

    def wait(self, tenant: str) -> float:
        """Seconds until a newcomer of this tenant gets a place, by how long places were held lately."""
        now = time.monotonic()
        per_second = sum(w.capacity / max(w.service.mean, 1e-3) for w in self.members if w.usable(now))
        return admission.expected_wait(self.queue.ahead(tenant), per_second)


class Place:
    """One place at a worker, until its block ends; what became of the request is told to the breaker."""

    __slots__ = ("_failed", "_pools", "_started", "worker")

    def __init__(self, pools: "Pools", worker: Worker) -> None:
        self.worker = worker
        self._pools = pools
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
        bad = self._failed or isinstance(exc, Unavailable | Upstream | UpstreamTimeout)
        if bad:
            self._pools.failed(worker, now, surely=_nobody_listens(exc))
        elif exc is not None and not isinstance(exc, SoundstageError):
            worker.breaker.abandoned()  # the client left, or the fault was ours
        else:
            worker.service = worker.service.after(now - self._started)
            if worker.breaker.failing or worker.breaker.trying:
                worker.breaker.succeeded()
        self._pools.freed(worker)


class Pools:
    """The pools of all `workers`, made anew when who is there changes. One for each process."""

    def __init__(self, rules: Rules, workers: Callable[[], Iterable[Worker]]) -> None:
        self._rules = rules
        self._workers = workers
        self._changed = False
        self._able: dict[tuple[str | None, Ability], list[Worker]] = {}
        self._pools: dict[tuple[str | None, Ability, str | None], Pool] = {}
        self._alike: dict[tuple[str | None, tuple[str, ...]], Pool] = {}

    def changed(self) -> None:
        """Workers came, went, or serve other models."""
        self._changed = True
        if any(len(pool.queue) for pool in self._alike.values()):
            self._regroup()

    def _regroup(self) -> None:
        """Who waits goes on waiting, in the pools that are there now."""
        waiting = sorted((ticket for pool in self._alike.values() for ticket in pool.queue), key=lambda t: t.number)
        for pool in self._alike.values():
            for worker in pool.members:
                worker.seats.clear()  # of one that is gone, too: its place may still be given back
        self._able, self._pools, self._alike, self._changed = {}, {}, {}, False
        for worker in sorted(self._workers(), key=lambda each: each.id):
            for served in worker.announcement.models:
                for name, ability in itertools.product((None, served.id, *served.aliases), served.abilities):
                    able = self._able.setdefault((name, ability), [])
                    if not able or able[-1] is not worker:
                        able.append(worker)
        for ticket in waiting:
            assert isinstance(ticket, Waiting)
            ticket.wait_for(self.pool(ticket.ask) or self._alike.setdefault(_NOWHERE, Pool((), "round_robin", 0)))
        for pool in list(self._alike.values()):
            while self._serve(pool):
                pass

    def serving(self, model: str, ability: Ability) -> bool:
        """Whether any worker, usable or not, answers for this."""
        return self.pool(Ask(model, ability)) is not None

    def pool(self, ask: Ask) -> Pool | None:
        """The workers known for this, usable or not; of those with its role, where one of them is usable."""
        if self._changed:
            self._regroup()
        if ask.role is not None:
            of_role = self._pool(ask.model, ask.ability, ask.role)
            if of_role is not None and of_role.places:
                return of_role
        return self._pool(ask.model, ask.ability, None)

    def _pool(self, model: str | None, ability: Ability, role: str | None) -> Pool | None:
        found = self._pools.get((model, ability, role))
        if found is not None:
            return found
        members = self._able.get((model, ability), [])
        if role is not None:
            members = [worker for worker in members if role in worker.announcement.roles]
        if not members:
            return None  # not remembered: callers could fill the memory with names
        alike = (role, tuple(worker.id for worker in members))
        if alike not in self._alike:
            self._alike[alike] = self._made(members, role)
        self._pools[model, ability, role] = self._alike[alike]
        return self._alike[alike]

    def _made(self, members: list[Worker], role: str | None) -> Pool:
        strategy = self._rules.routing.get(members[0].announcement.kind, "least_outstanding")
        pool = Pool(members, strategy, self._rules.role_queue_max.get(role or "", self._rules.queue_max))
        for worker in members:
            self.refresh(worker)
        return pool

    def model_of(self, ask: Ask) -> str | None:
        """The model of the worker that would be asked now or, where all are full, of one that is there."""
        pool, now = self.pool(ask), time.monotonic()
        if pool is None:
            return None
        worker = pool.pick(ask) or next((w for w in pool.members if w.usable(now)), None)
        return worker.first(ask.ability) if worker else None

    # -- taking a place -------------------------------------------------------------------------------------------

    async def take(self, ask: Ask) -> Place:
        """A place at a worker, at once or after a bounded wait in a fair queue.

        Raises Unavailable (nobody serves this now) and Overloaded (no room to wait, or it would take too long).
        """
        pool = self.pool(ask)
        if pool is None:
            raise _nobody(ask.ability)
        place = None if len(pool.queue) else self._now(pool, ask)
        return place if place is not None else await self._wait(pool, ask)

    def take_other(self, ask: Ask, tried: Collection[str]) -> Place | None:
        """A place that is free now at a worker that was not tried yet, if there is one."""
        pool = self.pool(ask)
        return None if pool is None else self._now(pool, ask, tried)

    def _now(self, pool: Pool, ask: Ask, tried: Collection[str] = ()) -> Place | None:
        while (worker := pool.pick(ask, tried)) is not None:
            if worker.live_until > time.monotonic():
                return Place(self, worker)
            self.refresh(worker)  # its lease ran out since
        return None

    async def _wait(self, pool: Pool, ask: Ask) -> Place:
        loop = asyncio.get_running_loop()
        began = loop.time()
        longest = min(self._rules.queue_seconds, ask.until - began)
        self._may_wait(pool, ask, longest)
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
            QUEUE_WAIT.labels(ask.ability).observe(loop.time() - began)

    def _may_wait(self, pool: Pool, ask: Ask, longest: float) -> None:
        """Raises at once where waiting is of no use."""
        if not pool.places:
            raise _nobody(ask.ability)
        wait = pool.wait(ask.tenant)
        if not pool.queue.has_room(ask.tenant):
            raise self._full(ask, "queue_full", wait)
        if wait > longest:
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
        load = routing.load(worker.outstanding, worker.capacity) if takes else AWAY
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
        ticket = pool.queue.take()
        assert isinstance(ticket, Waiting)
        if not ticket.place.done():
            ticket.place.set_result(Place(self, worker))
        return True

    def failed(self, worker: Worker, now: float, *, surely: bool = False) -> None:
        """A request or a probe of it failed."""
        seconds = worker.breaker.failed(now, surely=surely)
        if seconds is not None:
            EJECTED.labels(worker.announcement.kind).inc()
            asyncio.get_running_loop().call_later(seconds + 0.001, self.freed, worker)

    def depth(self) -> dict[Kind, int]:
        """How many wait, by kind of worker."""
        found: dict[Kind, int] = dict.fromkeys(get_args(Kind), 0)
        for pool in self._alike.values():
            if pool.members:
                found[pool.members[0].announcement.kind] += len(pool.queue)
        return found


_ANY = Ask(None, "chat")
_NOWHERE = (None, ())  # who waits for a model whose last worker went: one may come before their time is up


def _nobody(ability: Ability) -> Unavailable:
    return Unavailable(f"No worker for {ability} can answer right now.", code="no_worker", retry_after=2)


def _nobody_listens(exc: BaseException | None) -> bool:
    """Whether the connection itself was refused."""
    cause: Any = exc.__cause__ if exc is not None else None
    if isinstance(cause, aiohttp.ClientConnectorError | httpx2.ConnectError):
        return True
    return isinstance(cause.__cause__, httpx2.ConnectError) if cause is not None else False
