"""Consumers of a queue are killed at random; every job's effect is counted by the database itself.

python -m bench.queue [list|stream] [JOBS]     # 10,000 jobs; its result in bench/results/queue-KIND.json
"""

import asyncio
import contextlib
import json
import os
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

ROOT = Path(__file__).resolve().parents[1]
VISIBILITY = 1.0  # seconds
EFFECTS = """
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


async def killed_at_random(
    dsn: str, url: str, *, kind: str, jobs: int, consumers: int, kills: int, visibility: float = VISIBILITY
) -> Outcome:
    """Fill a queue, start consumers, kill one now and then and start another; until every job has its result."""
    name = f"bench{random.getrandbits(40):x}"
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(EFFECTS.encode())
        made = redis.asyncio.Redis.from_url(url, decode_responses=True, protocol=2)
        try:
            await _fill(made, name, kind, jobs)
            began = time.monotonic()
            killed = await _run(made, dsn, url, name, kind, jobs, consumers, kills, visibility)
            rows = await (await connection.execute("select id, count(*) from effects group by id")).fetchall()
            results = len([key async for key in made.scan_iter(f"{name}:result:*", count=1000)])
            left = await _left(made, name, kind)
            return Outcome(dict(rows), results, left, killed, round(time.monotonic() - began, 1))
        finally:
            await made.aclose()


async def _fill(made: "redis.asyncio.Redis", name: str, kind: str, jobs: int) -> None:
    pipe = made.pipeline(transaction=False)
    for number in range(jobs):
        text = json.dumps({"id": f"j{number}", "job_type": "chat_enhance", "payload": {"n": number}})
        if kind == "stream":
            pipe.xadd(name, {"job": text})
        else:
            pipe.rpush(name, text)
    await pipe.execute()


async def _run(
    made: "redis.asyncio.Redis",
    dsn: str,
    url: str,
    name: str,
    kind: str,
    jobs: int,
    consumers: int,
    kills: int,
    visibility: float,
) -> int:
    """How many were killed: one whenever another share of the jobs is done."""
    command = (sys.executable, "-m", "tests.fakes.queue_consumer", dsn, url, name, kind, str(visibility))
    running: list[asyncio.subprocess.Process] = []
    killed = 0
    try:
        while True:
            while len(running) < consumers:
                running.append(await asyncio.create_subprocess_exec(*command, cwd=ROOT))
            left = await _left(made, name, kind)
            if not left:
                return killed
            if killed < kills and left <= jobs * (1 - (killed + 0.5) / (kills + 1)):
                victim = running.pop(random.randrange(len(running)))
                victim.kill()
                await victim.wait()
                killed += 1
            await asyncio.sleep(0.02)
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _left(made: "redis.asyncio.Redis", name: str, kind: str) -> int:
    if kind == "stream":
        return int(await made.xlen(name))
    waiting: Any = made.llen(name)
    taken: Any = made.llen(f"{name}:taken")
    return int(await waiting) + int(await taken)


@contextlib.asynccontextmanager
async def _servers() -> AsyncIterator[tuple[str, str]]:
    from core.db.embedded import embedded_postgres
    from core.db.migrate import migrate
    from tests.fakes.redis_server import redis_server

    with tempfile.TemporaryDirectory(prefix="soundstage-") as folder:
        async with embedded_postgres(Path(folder, "data")) as dsn, redis_server() as url:
            await migrate(dsn)
            yield dsn, url


async def main(kind: str, jobs: int) -> None:
    async with _servers() as (dsn, url):
        found = await killed_at_random(dsn, url, kind=kind, jobs=jobs, consumers=2, kills=20, visibility=2.0)
    twice = {job: times for job, times in found.effects.items() if times != 1}
    said = asdict(found) | {"effects": len(found.effects), "not_once": twice, "jobs": jobs, "kind": kind}
    said |= {"cores": os.cpu_count(), "load_1m": round(os.getloadavg()[0], 1)}
    Path(ROOT, "bench", "results", f"queue-{kind}.json").write_text(json.dumps(said, indent=1) + "\n")
    print(said)
    assert len(found.effects) == found.results == jobs
    assert not twice


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "list", int(sys.argv[2]) if len(sys.argv) > 2 else 10_000))
