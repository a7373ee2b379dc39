"""Which models may be loaded together: decided with numbers alone. Pure.

A load that fits goes ahead. One that does not fit takes the place of the least recently used models, where that is
allowed; a pinned model never gives way. All sizes are bytes.
"""

from collections.abc import Sequence
from typing import NamedTuple

from llm.device import GB


class Resident(NamedTuple):
    """One model: what it holds now, what it needs when loaded, what it keeps when it has given way (asleep)."""

    id: str
    holds: int
    needs: int
    keeps: int = 0
    last_used: float = 0.0
    pinned: bool = False


class Plan(NamedTuple):
    """Models that give way first, in order."""

    give_way: tuple[str, ...] = ()


class Refusal(NamedTuple):
    """The load does not fit: what it needs, what is free, and what could be freed."""

    needs: int
    free: int
    reclaimable: int
    budget: int

    def text(self, id: str) -> str:
        sizes = {name: f"{value / GB:.2f} GB" for name, value in self._asdict().items()}
        return (
            f"{id} does not fit: it needs {sizes['needs']}, {sizes['free']} of {sizes['budget']} are free, "
            f"{sizes['reclaimable']} could be freed by unloading others (force)."
        )


def plan_load(wanted: Resident, others: Sequence[Resident], budget: int, *, may_evict: bool) -> Plan | Refusal:
    """What loading `wanted` takes."""
    held = sum(other.holds for other in others)
    short = held + wanted.needs - budget
    if short <= 0:
        return Plan()
    movable = sorted((o for o in others if not o.pinned and o.holds > o.keeps), key=lambda o: (o.last_used, o.id))
    reclaimable = sum(o.holds - o.keeps for o in movable)
    if not may_evict or short > reclaimable:
        return Refusal(wanted.needs, max(0, budget - held), reclaimable, budget)
    given: list[str] = []
    for other in movable:
        given.append(other.id)
        short -= other.holds - other.keeps
        if short <= 0:
            break
    return Plan(tuple(given))


def fits_ever(wanted: Resident, others: Sequence[Resident], budget: int) -> bool:
    """Whether it fits once everything that may give way has done so."""
    return not isinstance(plan_load(wanted, others, budget, may_evict=True), Refusal)
