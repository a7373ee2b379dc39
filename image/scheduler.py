"""Which requests take the next denoising step together. Pure: values in, a decision out.

A step costs rows × the longest row: every row of one transformer call is padded to the longest.
Work is counted in such tokens, and so is time: a request arrives at a reading of the engine's work
clock (tokens computed so far).

Order within a tenant: a request is *due* at `arrived + patience × remaining work`, or early enough
for its deadline; the earliest due goes first. Short work overtakes long work, but only what arrived
before a large image's due reading can, so a large image never starves. A request in progress gets
more urgent with every step it takes.

Order between tenants: each request's *finish* is what its tenant was served plus the tenant's work
up to and with this request, as if each tenant had the device to itself; the earliest finish goes
first. With one tenant that is the order of due. A priority scales work in both orders.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from image.request import Priority, RequestId

Verdict = Literal[
    "leads",
    "joins",
    "over budget",
    "too much padding",
    "no slot",
    "no memory",
    "wants to be alone",
    "leader is alone",
    "other adapter",
    "not equal",  # to the leader of a run of whole requests
    "finishing",
]

WEIGHT: dict[Priority, Fraction] = {"high": Fraction(1, 4), "normal": Fraction(1), "low": Fraction(4)}
"""How large a request's work looks; at most 16 times apart, so that ageing always wins."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request that could take a step."""

    id: RequestId
    tokens: int  # length of one of its rows: image and text tokens
    rows: int  # 1, or 2 with guidance
    steps_left: int  # 0: only its decoding is left
    arrived: int  # reading of the work clock
    resident: bool  # its latents and embeddings are on the device already
    tenant: str = ""
    priority: Priority = "normal"
    deadline: int | None = None  # reading of the work clock at the present pace
    bytes: int = 0  # device memory that its state takes
    alone: bool = False  # no other request in its step
    adapter: str | None = None  # requests with different weights do not mix

    @property
    def remaining(self) -> int:
        """Tokens still to compute."""
        return self.tokens * self.rows * self.steps_left

    @property
    def weighted(self) -> int:
        return int(self.remaining * WEIGHT[self.priority])


@dataclass(frozen=True, slots=True)
class Budget:
    """What a step and the device can hold."""

    tokens: int  # most tokens in one step, padding counted; a larger single request runs alone
    residents: int  # most requests whose state is on the device
    padding: int  # padding tokens worth computing to save a transformer call
    patience: int = 4  # how many times its own work a request can wait before it is due
    bytes: int | None = None  # memory free for more residents, as measured; None: unknown


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one candidate steps or waits."""

    id: RequestId
    due: int
    finish: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """`step`: the batch, most urgent first. `cost`: its tokens, of which `padding` are padding."""

    step: tuple[RequestId, ...]
    cost: int
    padding: int
    reasons: tuple[Reason, ...]  # most urgent first


def schedule(candidates: Iterable[Candidate], budget: Budget, served: Mapping[str, int] | None = None) -> Decision:
    """The next step's batch; empty only when nothing is left to step. `served`: weighted tokens that each tenant was
    served (see `image.fair_shares`); unknown tenants count 0."""
    queue = _queue(candidates, budget, served or {})
    room = _Room(budget, sum(c.resident for _, _, c in queue))
    batch = _Batch()
    reasons: list[Reason] = []
    for due, finish, candidate in queue:
        verdict = _verdict(candidate, batch, room)
        reasons.append(Reason(candidate.id, due, finish, verdict))
        if verdict in ("leads", "joins"):
            batch = batch.plus(candidate)
            room.take(candidate)
    return Decision(batch.ids, batch.cost, batch.cost - batch.real, tuple(reasons))


def _queue(
    candidates: Iterable[Candidate], budget: Budget, served: Mapping[str, int]
) -> list[tuple[int, int, Candidate]]:
    """Due, finish and candidate, most urgent first."""
    ahead: dict[str, int] = {}
    queue = []
    for due, candidate in sorted(((_due(c, budget), c) for c in candidates), key=lambda pair: (pair[0], pair[1].id)):
        ahead[candidate.tenant] = ahead.get(candidate.tenant, served.get(candidate.tenant, 0)) + candidate.weighted
        queue.append((due, ahead[candidate.tenant], candidate))
    return sorted(queue, key=lambda entry: (entry[1], entry[0], entry[2].id))


def _due(c: Candidate, budget: Budget) -> int:
    due = c.arrived + budget.patience * c.weighted
    return due if c.deadline is None else min(due, c.deadline - c.remaining)


class _Room:
    """What is left of slots and memory while a batch is built."""

    def __init__(self, budget: Budget, residents: int) -> None:
        self.budget = budget
        self.residents = residents
        self.bytes = budget.bytes

    def take(self, c: Candidate) -> None:
        if not c.resident:
            self.residents += 1
            self.bytes = None if self.bytes is None else self.bytes - c.bytes

    def lacks(self, c: Candidate) -> Literal["no slot", "no memory"] | None:
        if c.resident:
            return None
        if self.residents >= self.budget.residents:
            return "no slot"
        # With nothing else resident it is tried: only the device knows for certain.
        return "no memory" if self.bytes is not None and c.bytes > self.bytes and self.residents else None


@dataclass(frozen=True, slots=True)
class _Batch:
    ids: tuple[RequestId, ...] = ()
    rows: int = 0
    longest: int = 0  # tokens of the longest row
    real: int = 0  # tokens that are not padding
    alone: bool = False
    adapter: str | None = None

    @property
    def cost(self) -> int:
        return self.rows * self.longest

    def plus(self, c: Candidate) -> "_Batch":
        return _Batch(
            (*self.ids, c.id),
            self.rows + c.rows,
            max(self.longest, c.tokens),
            self.real + c.rows * c.tokens,
            c.alone,
            c.adapter,
        )


def _verdict(c: Candidate, batch: _Batch, room: _Room) -> Verdict:
    if not c.steps_left:
        return "finishing"
    if lack := room.lacks(c):
        return lack
    return _fit(c, batch, room.budget) if batch.ids else "leads"


def _fit(c: Candidate, batch: _Batch, budget: Budget) -> Verdict:
    if batch.alone:
        return "leader is alone"
    if c.alone:
        return "wants to be alone"
    if c.adapter != batch.adapter:
        return "other adapter"
    joined = batch.plus(c)
    if joined.cost > budget.tokens:
        return "over budget"
    return "too much padding" if joined.cost - joined.real > budget.padding else "joins"
