"""Timing of one operation, many times."""

import statistics
import time
from collections.abc import Awaitable, Callable

ROUNDS = 5_000


async def timed(work: Callable[[], Awaitable[object]], rounds: int = ROUNDS) -> tuple[float, float]:
    """(p50, p99) in microseconds."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - started) * 1e6)
    cuts = statistics.quantiles(taken, n=100)
    return cuts[49], cuts[98]
