"""Consumers of a queue are killed at random: `python -m tests.endurance.queue [JOBS]`.

Over a Redis list and over a stream. Every job's effect, counted by the database itself, is to be there once.
"""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis.asyncio

from bench.harness import ROOT, python
from core.db.embedded import embedded_postgres
from core.db.migrate import migrate
from tests.endurance import harness
from tests.fakes.redis_server import redis_server

VISIBILITY = 1.0  # seconds
EFFECTS = b"""
create table effects (id text);
create function record_effect() returns trigger language plpgsql as $$
begin insert into effects values (new.id); return null; end $$;
create trigger effect after update on queue_jobs for each row
    when (old.state = 'running' and new.state = 'done') execute function record_effect();
"""


@dataclass
class Outcome:
    """`effects`: how often each job was done. `seconds` from the first job to the last result."""

    effects: dict[str, int]
    results: int
    left: int
    kills: int
    seconds: float


class Queue:
    """A Redis list or stream of that name."""

    def __init__(self, redis: "redis.asyncio.Redis", kind: str) -> None:
        self.redis, self.kind, self.name = redis, kind, f"bench{random.getrandbits(40):x}"

    async def fill(self, jobs: int) -> None:
        pipe = self.redis.pipeline(transaction=False)
        for number in range(jobs):
            text = json.dumps({"id": f"j{number}", "job_type": "chat_enhance", "payload": {"n": number}})
            if self.kind == "stream":
                pipe.xadd(self.name, {"job": text})
            else:
                pipe.rpush(self.name, text)
        await pipe.execute()

    async def left(self) -> int:
        if self.kind == "stream":
            return int(await self.redis.xlen(self.name))
        waiting: Any = self.redis.llen(self.name)
        taken: Any = self.redis.llen(f"{self.name}:taken")
        return int(await waiting) + int(await taken)

    async def results(self) -> int:
        return len([key async for key in self.redis.scan_iter(f"{self.name}:result:*", count=1000)])


async def killed_at_random(
    dsn: str, url: str, *, kind: str, jobs: int, consumers: int, kills: int, visibility: float = VISIBILITY
) -> Outcome:
    """Fill a queue, start consumers, kill one now and then and start another; until every job has its result."""
    made = redis.asyncio.Redis.from_url(url, decode_responses=True, protocol=2)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection, contextlib.aclosing(made):
        await connection.execute(EFFECTS)
        queue = Queue(made, kind)
        await queue.fill(jobs)
        began = time.monotonic()
        command = python("tests.fakes.queue_consumer", dsn, url, queue.name, kind, visibility)
        killed = await _consumed(queue, command, jobs, consumers, kills)
        rows = await (await connection.execute("select id, count(*) from effects group by id")).fetchall()
        seconds = round(time.monotonic() - began, 1)
        return Outcome(dict(rows), await queue.results(), await queue.left(), killed, seconds)


async def _consumed(queue: Queue, command: tuple[str, ...], jobs: int, consumers: int, kills: int) -> int:
    """How many consumers were killed: one whenever another share of the jobs is done."""
    running: list[asyncio.subprocess.Process] = []
    killed = 0
    try:
        while left := await queue.left():
            while len(running) < consumers:
                running.append(await asyncio.create_subprocess_exec(*command, cwd=ROOT))
            if killed < kills and left <= jobs * (1 - (killed + 0.5) / (kills + 1)):
                await _kill(running.pop(random.randrange(len(running))))
                killed += 1
            await asyncio.sleep(0.02)
        return killed
    finally:
        for process in running:
            await _kill(process)


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def consumed(folder: Path, jobs: int) -> dict[str, Any]:
    found = {}
    for kind in ("list", "stream"):
        async with embedded_postgres(folder / kind) as dsn, redis_server() as url:
            await migrate(dsn)
            outcome = await killed_at_random(
                dsn, url, kind=kind, jobs=jobs, consumers=2, kills=min(20, jobs // 50), visibility=2.0
            )
        times = Counter(outcome.effects.values())
        print(kind, outcome.seconds, "s", flush=True)
        found[kind] = {**asdict(outcome), "effects": {f"{count}x": many for count, many in times.items()}}
    holds = {
        f"{kind}: each effect once, nothing left": (each["effects"], each["results"], each["left"])
        == ({"1x": jobs}, jobs, 0)
        for kind, each in found.items()
    }
    return {**found, "holds": holds}


if __name__ == "__main__":
    harness.end("queue", __doc__ or "", consumed, unit="jobs", default=10_000, limit_seconds=7200)
