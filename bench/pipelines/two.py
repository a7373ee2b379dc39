"""Two orchestrators, three image workers, two tenants, of whom one floods: `python -m bench.pipelines.two [JOBS]`.

The flooding tenant queues nine tenths of the jobs at once, then the other queues its tenth. Printed, for one and for
two orchestrators: jobs a second, when the light tenant's jobs were done, and whether any engine call was made twice.
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
import psycopg

from bench.pipelines.studio import ASKED, PATH, Bench, headers, studio

ENGINE_SECONDS = 0.02
WORKERS = 3
FILE = Path(__file__).parent.parent / "results" / "pipelines-two.json"


async def main(jobs: int) -> None:
    found: dict[str, Any] = {"jobs": jobs, "image_workers": WORKERS, "engine_seconds": ENGINE_SECONDS}
    for orchestrators in (1, 2):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            async with (
                studio(Path(folder), orchestrators, WORKERS, ENGINE_SECONDS) as bench,
                aiohttp.ClientSession() as http,
            ):
                found[f"orchestrators_{orchestrators}"] = await _flooded(bench, http, jobs)
                print(orchestrators, found[f"orchestrators_{orchestrators}"], flush=True)
    FILE.write_text(json.dumps(found, indent=2) + "\n")


async def _flooded(bench: Bench, http: aiohttp.ClientSession, jobs: int) -> dict[str, Any]:
    keys = {tenant: await _key(bench, http, tenant) for tenant in ("heavy", "light")}
    began, load = time.perf_counter(), os.getloadavg()
    await _queued(bench, http, keys["heavy"], jobs * 9 // 10)
    await _queued(bench, http, keys["light"], jobs // 10)
    queued = time.perf_counter() - began
    async with await psycopg.AsyncConnection.connect(bench.dsn, autocommit=True) as connection:
        while (await _one(connection, "select count(*) from jobs where ended_at is null"))[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        seconds = (await _one(connection, "select extract(epoch from max(ended_at) - min(created_at)) from jobs"))[0]
        rows = await (await connection.execute(_ENDED)).fetchall()
        states = await (await connection.execute("select state, attempts, count(*) from jobs group by 1, 2")).fetchall()
    begun = (await bench.counts(http))["begun"]
    begun.pop("none", None)
    return {
        "load": load,
        "seconds_to_queue": round(queued, 1),
        "jobs_a_second": round(jobs / float(seconds), 1),
        "last_of_tenant_ended_after_seconds": {tenant: round(float(last), 1) for tenant, last in rows},
        "states": {f"{state}, attempts {attempts}": count for state, attempts, count in states},
        "engine_calls_by_how_often_a_key_was_begun": dict(Counter(begun.values())),
    }


_ENDED = "select tenant, extract(epoch from max(ended_at) - (select min(created_at) from jobs)) from jobs group by 1"


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
