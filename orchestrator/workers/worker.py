"""Workers that can stand in for one another: how loaded each is, who of them takes a request, who waits for them.

Which of them takes one is routing.py's to say, whether one is asked at all, breaker.py's, who waits in which order,
queue.py's. Here is the state that they decide by.
"""

import time
from collections.abc import Callable, Collection, MutableMapping, Sequence
from dataclasses import dataclass, field
from random import random
from typing import Any

from yarl import URL

from core.wire.workers import Ability, Announcement, Strategy
from orchestrator.workers import queue, routing
from orchestrator.workers.breaker import Breaker
from orchestrator.workers.queue import FairQueue, ServiceTime
from orchestrator.workers.routing import AWAY, Ring

PACE_TOKENS = 8  # a shorter answer says more of its prompt than of its own pace
PACE_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request wants. `until`: when its caller has no more use for it, on the event loop's clock, in seconds;
    `cost`: its estimated work; `affinity`: gives the bytes whose owner it should go to, where the pool routes so;
    `worker`: the id of one that has something of it already; `notes`: what is written down of its request."""

    model: str | None
    ability: Ability
    role: str | None = None
    tenant: str = "default"
    priority: int = 0
    until: float = AWAY
    cost: Callable[[], float] = lambda: 1.0
    affinity: Callable[[], bytes] = bytes
    worker: str | None = None
    notes: MutableMapping[str, Any] | None = None

    def waited(self, seconds: float) -> None:
        """It stood in a queue so long; a request that does so several times, for the last of them."""
        if self.notes is not None:
            self.notes["waited"] = self.notes.get("waited", 0.0) + seconds
            self.notes["waited_for"] = " ".join(filter(None, (self.ability, self.model, self.role)))


@dataclass(eq=False)
class Worker:
    """One worker as this orchestrator knows it. `outstanding` counts this orchestrator's own requests, `elsewhere` what
    others had asked of it when it last told its load."""

    announcement: Announcement
    url: URL
    key: str | None
    live_until: float  # on the monotonic clock
    saved_at: float = AWAY  # when the database last took what is known here; never, of a static worker
    owner: str | None = None  # the key that holds its lease; none where it does not announce itself
    rewrites: dict[str, str] = field(default_factory=dict)  # a name callers use -> the worker's own
    outstanding: int = 0
    elsewhere: int = 0
    probed: bool = True  # what it last said itself when it was asked whether it is ready
    drained: bool = False  # an admin lets it finish what it has
    service: ServiceTime = field(default_factory=ServiceTime)
    breaker: Breaker = field(default_factory=Breaker)
    pace: float = 0.0  # tokens that it answers with in a second, to one request; 0: not known
    fingerprints: dict[str, bytes] = field(default_factory=dict)  # of its engines, by model, as streams last told
    seats: list[tuple["Pool", int]] = field(default_factory=list)  # where its load is noted

    def __post_init__(self) -> None:
        self.update(self.announcement)

    def update(self, announcement: Announcement) -> None:
        """Take what it says of itself now."""
        self.announcement = announcement
        self.id = announcement.id
        self.capacity = announcement.capacity
        told = max(0, (announcement.queue_depth or 0) - self.outstanding)
        for pool, _ in self.seats:
            pool.elsewhere += told - self.elsewhere
        self.elsewhere = told
        self.reckon()

    def note_pace(self, tokens: float, seconds: float) -> None:
        """It took so long for one answer of so many tokens. The last few answers weigh most."""
        if tokens >= PACE_TOKENS and seconds > 0:
            self.pace += (tokens / seconds - self.pace) * (PACE_SHARE if self.pace else 1.0)

    def load(self) -> float:
        """What others asked of it makes it the later choice; full it is by our own requests alone: the word is old."""
        own = routing.load(self.outstanding, self.capacity)
        return own + self.elsewhere / self.capacity if self.elsewhere else own

    def reckon(self) -> None:
        """Whether it takes requests at all, by what it and an admin say."""
        says = self.announcement
        self.open = says.ready and not says.draining and self.probed and not self.drained

    def move(self, url: URL) -> None:
        """It is reached elsewhere now: what failed at its old address says nothing of the new one."""
        self.url, self.breaker = url, Breaker()

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


class Pool:
    """Workers that can stand in for one another, how loaded each is, and who waits for them."""

    def __init__(self, members: Sequence[Worker], strategy: Strategy, queue_max: int) -> None:
        self.members, self.strategy = members, strategy
        self.queue = FairQueue(queue_max)
        self.loads = [AWAY] * len(members)
        self.places = 0  # requests that its workers take at once
        self._offers = [0] * len(members)
        self.taken = sum(worker.outstanding for worker in members)
        self.elsewhere = sum(worker.elsewhere for worker in members)
        self._last = -1
        self._ring: Ring | None = None
        for at, worker in enumerate(members):
            worker.seats.append((self, at))

    def pick(self, ask: Ask, tried: Collection[str] = ()) -> Worker | None:
        """The worker that takes this; None where none has room."""
        loads = self.loads
        if ask.worker is not None:
            for worker, load in zip(self.members, loads, strict=True):
                if worker.id == ask.worker and load != AWAY and worker.id not in tried:
                    return worker
        if tried:
            loads = [AWAY if w.id in tried else now for w, now in zip(self.members, loads, strict=True)]
        at = self._at(ask, loads)
        if at is None:
            at = routing.least(self._despite_breakers(tried))
        return None if at is None else self.members[at]

    def _at(self, ask: Ask, loads: Sequence[float]) -> int | None:
        if self.strategy == "affinity":
            self._ring = self._ring or Ring([worker.id for worker in self.members])
            return self._ring.walk(ask.affinity(), loads, (self.taken + self.elsewhere) / max(1, self.places))
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
        return [w.load() if can and w.id not in tried else AWAY for w, can in zip(self.members, usable, strict=True)]

    def note(self, at: int, load: float, offers: int) -> None:
        """How loaded a worker is now, and how many requests it takes at once."""
        self.loads[at] = load
        self.places += offers - self._offers[at]
        self._offers[at] = offers

    def wait(self, tenant: str) -> float:
        """Seconds until a newcomer of this tenant gets a place, by how long places were held lately and how fast those
        of its tenant who wait got theirs."""
        now = time.monotonic()
        per_second = sum(w.capacity / max(w.service.mean, 1e-3) for w in self.members if w.usable(now))
        return max(queue.expected_wait(self.queue.ahead(tenant), per_second), self.queue.own_wait(tenant))
