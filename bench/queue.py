"""Consumers of a queue are killed at random; every job's effect is counted by the database itself.

python -m bench.queue [list|stream] [JOBS]     # 10,000 jobs; its result in bench/results/queue-KIND.json
"""

import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis.asyncio

from bench.harness import ROOT, machine, python, save
from core.db.embedded import embedded_postgres
from core.db.migrate import migrate

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


@contextlib.asynccontextmanager
async def _servers() -> AsyncIterator[tuple[str, str]]:
    from tests.fakes.redis_server import redis_server

    with tempfile.TemporaryDirectory(prefix="soundstage-") as folder:
        async with embedded_postgres(Path(folder, "data")) as dsn, redis_server() as url:
            await migrate(dsn)
            yield dsn, url


async def main(kind: str, jobs: int) -> int:
    async with _servers() as (dsn, url):
        found = await killed_at_random(dsn, url, kind=kind, jobs=jobs, consumers=2, kills=20, visibility=2.0)
    not_once = {job: times for job, times in found.effects.items() if times != 1}
    figures = asdict(found) | {"effects": len(found.effects), "not_once": not_once, "jobs": jobs, "kind": kind}
    save(f"queue-{kind}", figures | {"machine": machine()})
    print(figures)
    return 0 if len(found.effects) == found.results == jobs and not not_once else 1


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "list"
    sys.exit(asyncio.run(main(chosen, int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)))
