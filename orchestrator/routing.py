"""Which worker takes a request. Pure: values in, a decision out."""

from collections.abc import Collection, Iterable
from typing import NamedTuple


class Candidate(NamedTuple):
    """A live worker that can do what is asked: how much it is doing now, and how much it takes at once."""

    id: str
    outstanding: int
    capacity: int


def pick(candidates: Iterable[Candidate], tried: Collection[str] = ()) -> str | None:
    """The least loaded worker that has room and was not tried yet; None where there is none.

    Load is outstanding requests over capacity, so that a big worker takes more. Ties go to the lower id: the caller
    breaks them by counting, since picking adds one outstanding request.
    """
    free = [c for c in candidates if c.outstanding < c.capacity and c.id not in tried]
    best = min(free, key=lambda c: (c.outstanding / c.capacity, c.outstanding, c.id), default=None)
    return best.id if best else None
