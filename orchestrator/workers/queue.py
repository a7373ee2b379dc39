"""Who waits for a worker, in which order, and what those are told who cannot. Pure: values in, decisions out.

Tenants take turns by deficit round robin: each turn gives every waiting tenant the same amount of work, counted in
estimated cost, so that many cheap requests and few dear ones get the same share. Within a tenant the higher priority
leaves first, then the older.
"""

import heapq
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

SMOOTHING = 0.1
LINE_SMOOTHING = 0.02  # places are often freed several at once: a mean of few intervals would be one of zeros
FIRST_GUESS_SECONDS = 1.0

_NUMBERS = itertools.count()


class ServiceTime(NamedTuple):
    """A moving mean of how long a request holds its place, in seconds."""

    mean: float = FIRST_GUESS_SECONDS

    def after(self, seconds: float) -> "ServiceTime":
        return ServiceTime(self.mean + SMOOTHING * (seconds - self.mean))


def expected_wait(ahead: int, per_second: float) -> float:
    """Seconds until a newcomer gets a place, where `ahead` leave before it and the pool frees so many a second."""
    return (ahead + 1) / per_second if per_second > 0 else math.inf


def retry_after(wait: float, cap: float) -> float:
    """What a refused caller is told, in seconds: the expected wait, within [1, cap]."""
    return min(max(1.0, wait), cap)


class Ticket:
    """One request that waits. `cost` is its estimated work, in any unit that the pool's requests share."""

    __slots__ = ("cost", "gone", "number", "priority", "tenant")

    def __init__(self, tenant: str, cost: float = 1.0, priority: int = 0) -> None:
        self.tenant = tenant
        self.cost = max(cost, 1e-9)
        self.priority = priority
        self.number = next(_NUMBERS)  # age: the lower came first
        self.gone = False

    def __lt__(self, other: "Ticket") -> bool:
        return (-self.priority, self.number) < (-other.priority, other.number)


class _Line:
    """One tenant's waiting requests, the next first, how much work it may still start in this turn, and the mean time
    between two that left, in seconds."""

    __slots__ = ("deficit", "heap", "interval", "left", "left_at", "waiting")

    def __init__(self) -> None:
        self.heap: list[Ticket] = []
        self.waiting = 0
        self.deficit = 0.0
        self.interval = self.left_at = 0.0
        self.left = 0

    def first(self) -> Ticket:
        """Of a line in which somebody waits."""
        while self.heap[0].gone:
            heapq.heappop(self.heap)
        return self.heap[0]

    def leaves(self, now: float) -> None:
        if self.left:
            self.interval += (now - self.left_at - self.interval) * max(LINE_SMOOTHING, 1 / self.left)
        self.left, self.left_at = self.left + 1, now


class FairQueue:
    """A bounded queue in front of a pool. One tenant alone fills half of it at most: the next finds room."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lines: dict[str, _Line] = {}  # of tenants that wait, in the order of their turns
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __iter__(self) -> Iterator[Ticket]:
        return (ticket for line in self._lines.values() for ticket in line.heap if not ticket.gone)

    def has_room(self, tenant: str) -> bool:
        """Whether one more of this tenant may wait: as long as it holds less than what is free."""
        line = self._lines.get(tenant)
        return (line.waiting if line else 0) < self.capacity - self._waiting

    def ahead(self, tenant: str) -> int:
        """How many leave before a newcomer of this tenant, at equal costs: its own, and as many of each other."""
        line = self._lines.get(tenant)
        own = line.waiting if line else 0
        return sum(min(other.waiting, own + (other is not line)) for other in self._lines.values())

    def own_wait(self, tenant: str) -> float:
        """Seconds until a newcomer of this tenant leaves, by how fast its own line moved since it began to wait: others
        who come later may leave before it. 0 where nothing is known."""
        line = self._lines.get(tenant)
        return line.interval * (line.waiting + 1) if line else 0.0

    def add(self, ticket: Ticket) -> None:
        line = self._lines.setdefault(ticket.tenant, _Line())
        heapq.heappush(line.heap, ticket)
        line.waiting += 1
        self._waiting += 1

    def discard(self, ticket: Ticket) -> None:
        """One that waits no longer: it left, or its time was up. No other may be discarded."""
        ticket.gone = True
        self._left(ticket.tenant)
        line = self._lines.get(ticket.tenant)
        if line is not None and len(line.heap) > 2 * line.waiting + 8:  # the gone ones below do not pile up
            line.heap = [kept for kept in line.heap if not kept.gone]
            heapq.heapify(line.heap)

    def oldest(self) -> int | None:
        """The age of the next in the line that came first, to choose between queues; None: nobody waits."""
        return min((line.first().number for line in self._lines.values()), default=None)

    def take(self, now: float) -> Ticket | None:
        """Whose turn it is, at `now` seconds; None where nobody waits."""
        if not self._lines:
            return None
        name, line = self._next_line()
        ticket = line.first()
        heapq.heappop(line.heap)
        ticket.gone = True
        line.deficit -= ticket.cost
        line.leaves(now)
        self._left(name)
        return ticket

    def _next_line(self) -> tuple[str, _Line]:
        """The tenant whose next request is paid for first, when all are given the same; equals in the order they came.
        Deficit round robin with the smallest quantum, its rounds run at once: a dear request costs no loop."""
        short = {name: line.first().cost - line.deficit for name, line in self._lines.items()}
        name = min(short, key=lambda tenant: short[tenant])
        for line in self._lines.values():
            line.deficit += max(0.0, short[name])
        return name, self._lines[name]

    def _left(self, tenant: str) -> None:
        line = self._lines[tenant]
        line.waiting -= 1
        self._waiting -= 1
        if not line.waiting:
            del self._lines[tenant]  # and its deficit: who does not wait saves up nothing
