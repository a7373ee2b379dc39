"""What the gateway's decisions cost: `python -m bench.gateway`.

Each beside the plain way to do the same, in one run, in turn: medians of many rounds of CPU time.
"""

import asyncio
import hashlib
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from pydantic import AnyHttpUrl
from yarl import URL

from core.wire.workers import Announcement, ServedModel, Strategy
from orchestrator.access.keys import Key, Keys, hashed
from orchestrator.workers.places import Pools
from orchestrator.workers.queue import FairQueue, Ticket
from orchestrator.workers.rules import Rules
from orchestrator.workers.worker import Ask, Pool, Worker

WORKERS, KEYS, WAITING, TENANTS = 1000, 100_000, 10_000, 100
ROUNDS, CALLS = 30, 200
RESULT = Path(__file__).parent / "results" / "gateway.md"


def main() -> None:
    rows = asyncio.run(_measured())
    lines = [
        "# The gateway's decisions, µs of CPU each\n",
        f"`python -m bench.gateway`, medians of {ROUNDS} rounds of {CALLS}.\n",
        "| what | µs | the plain way | ratio | budget |\n|---|---|---|---|---|",
        *(
            f"| {what} | {ours:.2f} | {plain:.2f} | {plain / ours:.1f}× | {budget} |"
            for what, ours, plain, budget in rows
        ),
    ]
    text = "\n".join(lines) + "\n"
    RESULT.write_text(text)
    RESULT.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    print(text)


async def _measured() -> list[tuple[str, float, float, str]]:
    strategies: tuple[Strategy, ...] = ("least_outstanding", "power_of_two", "round_robin", "affinity")
    rows = [_routing(strategy) for strategy in strategies]
    return [*rows, await _keys(), _queue()]


def _routing(strategy: Strategy) -> tuple[str, float, float, str]:
    """Against a scan over objects for the least loaded."""
    workers, random = [_worker(at) for at in range(WORKERS)], Random(1)
    pools = Pools(Rules(routing={"chat": strategy}), lambda: workers)
    for worker in workers:
        worker.outstanding = random.randrange(8)
    pools.changed()
    keys = [random.randbytes(8) for _ in range(CALLS)]
    asks = [Ask("small", "chat", affinity=partial(bytes, key)) for key in keys]
    pool = pools.pool(asks[0])
    assert pool is not None
    ours, plain = _in_turn(lambda at: _chosen(pools, asks[at]), lambda at: _scanned(pool))
    return f"a worker of {WORKERS}, {strategy}", ours, plain, "≤ 20"


def _chosen(pools: Pools, ask: Ask) -> Worker | None:
    pool = pools.pool(ask)
    return pool.pick(ask) if pool else None


def _scanned(pool: Pool) -> Worker | None:
    now = time.monotonic()
    able = [w for w in pool.members if w.usable(now) and w.breaker.lets_in(now) and w.outstanding < w.capacity]
    return min(able, key=lambda w: w.outstanding / w.capacity, default=None)


async def _keys() -> tuple[str, float, float, str]:
    """Against a hash of the kind that passwords want, at its fastest."""
    keys = Keys(None)  # type: ignore[arg-type]  # nothing here asks the database
    for at in range(KEYS):
        keys._found[hashed(f"sk-{at}")] = Key(f"key_{at}", "default", frozenset({"chat"}), 1, None)
    random = Random(2)
    headers = [[(b"authorization", f"Bearer sk-{random.randrange(KEYS)}".encode())] for _ in range(CALLS)]

    async def looked_up() -> float:
        began = time.process_time()
        for each in headers:
            await keys.authenticate(each)
        return (time.process_time() - began) / CALLS * 1e6

    found = [await looked_up() for _ in range(ROUNDS)]
    began = time.process_time()
    for each in headers[:5]:
        hashlib.scrypt(each[0][1], salt=b"salt", n=1024, r=8, p=1)
    slow = (time.process_time() - began) / 5 * 1e6
    return f"a key of {KEYS:,}, from memory", statistics.median(found), slow, "≤ 5"


def _queue() -> tuple[str, float, float, str]:
    """Against sorting all who wait."""
    queue = FairQueue(10 * WAITING)
    waiting = [Ticket(f"t-{at % TENANTS}", 1 + at % 7) for at in range(WAITING)]
    for ticket in waiting:
        queue.add(ticket)

    def through(at: int) -> None:
        ticket = queue.take(0.0)
        assert ticket is not None
        queue.add(Ticket(ticket.tenant, ticket.cost))

    ours, plain = _in_turn(through, lambda at: sorted(waiting)[0], plain_calls=3)
    return f"one out, one in: {WAITING:,} waiting of {TENANTS} tenants", ours, plain, ""


def _in_turn(ours: Callable[[int], Any], plain: Callable[[int], Any], *, plain_calls: int = 20) -> tuple[float, float]:
    """µs of CPU a call of each: medians."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for times, call, calls in ((taken[0], ours, CALLS), (taken[1], plain, plain_calls)):
            began = time.process_time()
            for at in range(calls):
                call(at)
            times.append((time.process_time() - began) / calls * 1e6)
    return statistics.median(taken[0]), statistics.median(taken[1])


def _worker(at: int) -> Worker:
    models = (ServedModel(id="small", abilities=("chat",)),)
    announcement = Announcement(id=f"w-{at:04}", kind="chat", url=AnyHttpUrl("http://w:1"), models=models, capacity=16)
    return Worker(announcement, URL("http://w:1"), None, time.monotonic() + 3600)


if __name__ == "__main__":
    main()
