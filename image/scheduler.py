"""Which requests take the next denoising step together. Pure: values in, a decision out.

A step costs rows × the longest row: every row of one transformer call is padded to the longest.
Work is counted in such tokens, and so is time: a request arrives at a reading of the engine's work
clock (tokens computed so far).

Order: a request is *due* at `arrived + patience × remaining work`; the earliest due goes first.
Short work overtakes long work, but only what arrived before a large image's due reading can, so a
large image never starves. A request in progress gets more urgent with every step it takes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from image.request import RequestId

Verdict = Literal["leads", "joins", "over budget", "too much padding", "no slot"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request that could take a step."""

    id: RequestId
    tokens: int  # length of one of its rows: image and text tokens
    rows: int  # 1, or 2 with guidance
    steps_left: int
    arrived: int  # reading of the work clock
    resident: bool  # its latents and embeddings are on the device already

    @property
    def remaining(self) -> int:
        """Tokens still to compute."""
        return self.tokens * self.rows * self.steps_left


@dataclass(frozen=True, slots=True)
class Budget:
    """What a step and the device can hold."""

    tokens: int  # most tokens in one step, padding counted; a larger single request runs alone
    residents: int  # most requests whose state is on the device
    padding: int  # padding tokens worth computing to save a transformer call
    patience: int = 4  # how many times its own work a request can wait before it is due


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one candidate steps or waits."""

    id: RequestId
    due: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """`step`: the batch, most urgent first. `cost`: its tokens, of which `padding` are padding."""

    step: tuple[RequestId, ...]
    cost: int
    padding: int
    reasons: tuple[Reason, ...]


def schedule(candidates: Iterable[Candidate], budget: Budget) -> Decision:
    """The next step's batch; empty only when there are no candidates."""
    queue = sorted(candidates, key=lambda c: (_due(c, budget), c.id))
    slots = budget.residents - sum(c.resident for c in queue)
    batch = _Batch()
    reasons: list[Reason] = []
    for candidate in queue:
        verdict = _verdict(candidate, batch, slots, budget)
        reasons.append(Reason(candidate.id, _due(candidate, budget), verdict))
        if verdict in ("leads", "joins"):
            batch = batch.plus(candidate)
            slots -= not candidate.resident
    return Decision(batch.ids, batch.cost, batch.cost - batch.real, tuple(reasons))


@dataclass(frozen=True, slots=True)
class _Batch:
    ids: tuple[RequestId, ...] = ()
    rows: int = 0
    longest: int = 0  # tokens of the longest row
    real: int = 0  # tokens that are not padding

    @property
    def cost(self) -> int:
        return self.rows * self.longest

    def plus(self, c: Candidate) -> "_Batch":
        return _Batch(
            (*self.ids, c.id),
            self.rows + c.rows,
            max(self.longest, c.tokens),
            self.real + c.rows * c.tokens,
        )


def _verdict(c: Candidate, batch: _Batch, slots: int, budget: Budget) -> Verdict:
    if not c.resident and slots < 1:
        return "no slot"
    if not batch.ids:
        return "leads"
    joined = batch.plus(c)
    if joined.cost > budget.tokens:
        return "over budget"
    if joined.cost - joined.real > budget.padding:
        return "too much padding"
    return "joins"


def _due(c: Candidate, budget: Budget) -> int:
    return c.arrived + budget.patience * c.remaining
