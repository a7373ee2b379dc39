"""Two orchestrators, three image workers, two tenants, of whom one floods: `python -m bench.pipelines.two [JOBS]`.

The flooding tenant queues nine tenths of the jobs at once, then the other queues its tenth. Printed, for one and for
two orchestrators: jobs a second, how long each tenant's jobs took from being asked for to their end, how many were at
work at once, and whether any engine call was made twice.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped,unused-ignore]
import psycopg

from bench.pipelines.studio import ASKED, PATH, Bench, headers, studio

ENGINE_SECONDS = 0.02
WORKERS, PLACES = 3, 4
FILE = Path(__file__).parent.parent / "results" / "pipelines-two.json"


async def main(jobs: int) -> None:
    found: dict[str, Any] = {
        **{"jobs": jobs, "cores": os.cpu_count(), "engine_seconds": ENGINE_SECONDS},
        **{"image_workers": WORKERS, "places_of_each": PLACES},
    }
    for orchestrators in (1, 2):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            async with (
                studio(Path(folder), orchestrators, WORKERS, ENGINE_SECONDS, PLACES) as bench,
                aiohttp.ClientSession() as http,
            ):
                found[f"orchestrators_{orchestrators}"] = await _flooded(bench, http, jobs)
                print(orchestrators, json.dumps(found[f"orchestrators_{orchestrators}"], indent=2), flush=True)
                FILE.write_text(json.dumps(found, indent=2) + "\n")


async def _flooded(bench: Bench, http: aiohttp.ClientSession, jobs: int) -> dict[str, Any]:
    keys = {tenant: await _key(bench, http, tenant) for tenant in ("heavy", "light")}
    began, load, cpu = time.perf_counter(), os.getloadavg(), _cpu_seconds(bench)
    await _queued(bench, http, keys["heavy"], jobs * 9 // 10)
    await _queued(bench, http, keys["light"], jobs // 10)
    queued = time.perf_counter() - began
    async with await psycopg.AsyncConnection.connect(bench.dsn, autocommit=True) as connection:
        while (await _one(connection, "select count(*) from jobs where ended_at is null"))[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        seconds = float((await _one(connection, _SECONDS))[0])
        rows = await (await connection.execute(_WAITED)).fetchall()
        states = await (await connection.execute("select state, attempts, count(*) from jobs group by 1, 2")).fetchall()
        ended_by = await (await connection.execute("select count(*) from jobs group by executor order by 1")).fetchall()
        most = (await _one(connection, _MOST))[0]
    begun = (await bench.counts(http))["begun"]
    begun.pop("none", None)
    return {
        "load": [load, os.getloadavg()],
        "seconds_to_queue": round(queued, 1),
        "jobs_a_second": round(jobs / seconds, 1),
        "orchestrators_cpu_ms_a_job": round((_cpu_seconds(bench) - cpu) / jobs * 1000, 1),
        "ended_by_each_orchestrator": [count for (count,) in ended_by],
        "most_at_work_at_once": most,
        "states": {f"{state}, attempts {attempts}": count for state, attempts, count in states},
        "engine_calls_by_how_often_a_key_was_begun": dict(Counter(begun.values())),
        "seconds_until_ended": {
            tenant: {"p50": round(p50, 1), "p95": round(p95, 1), "last": round(float(last), 1)}
            for tenant, p50, p95, last in rows
        },
    }


def _cpu_seconds(bench: Bench) -> float:
    """Of the orchestrators so far."""
    found = [psutil.Process(one.process.pid).cpu_times() for one in bench.orchestrators if one.process]
    return float(sum(times.user + times.system for times in found))


_SECONDS = "select extract(epoch from max(ended_at) - min(created_at)) from jobs"
_WAITED = """
select tenant, percentile_cont(0.5) within group (order by extract(epoch from ended_at - created_at)::float8),
       percentile_cont(0.95) within group (order by extract(epoch from ended_at - created_at)::float8),
       extract(epoch from max(ended_at - created_at))
  from jobs group by 1 order by 1
"""
_MOST = """
select max(count) from (
    select (select count(*) from jobs b where b.started_at <= a.started_at and b.ended_at > a.started_at) as count
      from jobs a) counted
"""


async def _one(connection: Any, query: str) -> Any:
    return await (await connection.execute(query)).fetchone()


async def _key(bench: Bench, http: aiohttp.ClientSession, tenant: str) -> str:
    one = bench.orchestrators[0]
    async with await psycopg.AsyncConnection.connect(bench.dsn, autocommit=True) as connection:
        await connection.execute("insert into tenants (id) values (%s)", (tenant,))
    body = {"name": tenant, "tenant": tenant, "scopes": ["pipelines"]}
    async with http.post(f"{one.url}/v1/keys", json=body, headers=headers(one.key)) as answer:
        assert answer.status in (200, 201), await answer.text()
        return str((await answer.json())["secret"])


async def _queued(bench: Bench, http: aiohttp.ClientSession, key: str, jobs: int) -> None:
    left = list(range(jobs))

    async def client(number: int) -> None:
        one = bench.orchestrators[number % len(bench.orchestrators)]
        while left:
            left.pop()
            async with http.post(one.url + PATH, json={**ASKED, "background": True}, headers=headers(key)) as answer:
                assert answer.status == 202, await answer.text()

    await asyncio.gather(*(client(number) for number in range(8)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
