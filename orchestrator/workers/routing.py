"""Which worker of a pool takes a request. Pure: loads in, a position out.

A load is outstanding requests over capacity, so that a big worker takes more; AWAY is a worker that takes nothing now.
The loads of a pool are one flat list: the least of a thousand is then found at the speed of C.
"""

import hashlib
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache

AWAY = math.inf
BOUND = 1.25
"""Affinity ends where a worker is this much busier than the mean of its pool."""
POINTS = 40  # of each worker on the ring: shares then differ by about a sixth


def load(outstanding: int, capacity: int) -> float:
    """AWAY where it is full."""
    return outstanding / capacity if outstanding < capacity else AWAY


def least(loads: Sequence[float]) -> int | None:
    """The least loaded; of equals the first: taking a place breaks the tie."""
    lowest = min(loads, default=AWAY)
    return None if lowest == AWAY else loads.index(lowest)


def in_turn(loads: Sequence[float], last: int) -> int | None:
    """The next after `last` that takes anything."""
    for at in range(last + 1, len(loads)):
        if loads[at] != AWAY:
            return at
    return next((at for at, each in enumerate(loads[: last + 1]) if each != AWAY), None)


def of_two(loads: Sequence[float], random: Callable[[], float]) -> int | None:
    """The less loaded of two taken at random (`random` gives 0 to 1): near the least, and orchestrators that do not see
    each other's requests do not run together."""
    if not loads:
        return None
    one, other = int(random() * len(loads)), int(random() * len(loads))
    found = one if loads[one] <= loads[other] else other
    return found if loads[found] != AWAY else least(loads)


class Ring:
    """Consistent hashing: a key keeps its worker while that one is there, and others keep theirs when one goes."""

    def __init__(self, ids: Sequence[str]) -> None:
        points = sorted((point, at) for at, name in enumerate(ids) for point in _points(name))
        self._points = [point for point, _ in points]
        self._owners = [at for _, at in points]

    def walk(self, key: bytes, loads: Sequence[float], mean: float) -> int | None:
        """The key's worker, or the next on the ring that is not much busier than the pool's `mean` load."""
        limit = min(BOUND * mean, math.nextafter(AWAY, 0))
        start = bisect_left(self._points, _point(key))
        owners, seen = self._owners, set[int]()
        for step in range(len(owners)):
            at = owners[(start + step) % len(owners)]
            if at not in seen and loads[at] <= limit:
                return at
            seen.add(at)
        return least(loads)


def _point(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())


@lru_cache(4096)
def _points(name: str) -> tuple[int, ...]:
    return tuple(_point(f"{name}#{number}".encode()) for number in range(POINTS))
