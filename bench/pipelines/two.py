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

import psycopg

from bench.harness import save
from bench.pipelines.studio import PATHS, Studio, studio

TICK_SECONDS = 0.004  # of which a request takes three to ten
WORKERS, PLACES = 3, 4
BODY = {"message": "a red apple on a table", "seed": 1, "partial_images": 0, "background": True}


async def main(jobs: int) -> None:
    found: dict[str, Any] = {
        **{"jobs": jobs, "cores": os.cpu_count(), "tick_seconds": TICK_SECONDS},
        **{"image_workers": WORKERS, "places_of_each": PLACES},
    }
    for orchestrators in (1, 2):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            async with studio(
                Path(folder), orchestrators=orchestrators, images=WORKERS, tick=TICK_SECONDS, capacity=PLACES
            ) as running:
                found[f"orchestrators_{orchestrators}"] = await _flooded(running, jobs)
                print(orchestrators, json.dumps(found[f"orchestrators_{orchestrators}"], indent=1), flush=True)
                save("pipelines-two", found)


async def _flooded(studio: Studio, jobs: int) -> dict[str, Any]:
    keys = {tenant: await studio.new_key(tenant) for tenant in ("heavy", "light")}
    began, load, cpu = time.perf_counter(), os.getloadavg(), studio.cpu_seconds()
    await _queue(studio, keys["heavy"], jobs * 9 // 10)
    await _queue(studio, keys["light"], jobs // 10)
    queued = time.perf_counter() - began
    async with await psycopg.AsyncConnection.connect(studio.dsn, autocommit=True) as connection:
        while (await _one(connection, "select count(*) from jobs where ended_at is null"))[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        seconds = float((await _one(connection, _SECONDS))[0])
        rows = await (await connection.execute(_WAITED)).fetchall()
        states = await (await connection.execute("select state, attempts, count(*) from jobs group by 1, 2")).fetchall()
        ended_by = await (await connection.execute("select count(*) from jobs group by executor order by 1")).fetchall()
        most = (await _one(connection, _MOST))[0]
    begun = Counter(len(events["begun"]) for events in studio.calls().values())
    return {
        "load": [load, os.getloadavg()],
        "seconds_to_queue": round(queued, 1),
        "jobs_a_second": round(jobs / seconds, 1),
        "orchestrators_cpu_ms_a_job": round((studio.cpu_seconds() - cpu) / jobs * 1000, 1),
        "ended_by_each_orchestrator": [count for (count,) in ended_by],
        "most_at_work_at_once": most,
        "states": {f"{state}, attempts {attempts}": count for state, attempts, count in states},
        "engine_calls_by_how_often_a_key_was_begun": dict(begun),
        "seconds_until_ended": {
            tenant: {"p50": round(p50, 1), "p95": round(p95, 1), "last": round(float(last), 1)}
            for tenant, p50, p95, last in rows
        },
    }


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


async def _queue(studio: Studio, key: dict[str, str], jobs: int) -> None:
    left = list(range(jobs))

    async def client(number: int) -> None:
        url = studio.orchestrators[number % len(studio.orchestrators)].url + PATHS["chat1to1"]
        while left:
            left.pop()
            async with studio.http.post(url, json=BODY, headers=key) as answer:
                assert answer.status == 202, await answer.text()

    await asyncio.gather(*(client(number) for number in range(8)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
