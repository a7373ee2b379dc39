"""The database is away: the relay goes on by what it holds, what must fail says so, and all of it recovers.

Leases do not end within this test; `python -m tests.endurance.outage` is away for a minute, four usual leases.
"""

import asyncio
from collections import Counter
from pathlib import Path

import httpx2
import pytest
from psycopg.types.json import Jsonb

from core.db.pool import open_pool
from orchestrator.access.keys import create_key
from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import answers, soon
from tests.orchestrator.test_database_away import away

pytestmark = pytest.mark.slow  # waits for a connection that does not come: 5 s, all at once

CHAT = {"model": "small", "max_tokens": 10, "messages": [{"role": "user", "content": "one two"}]}
LIMITS = {"budget_tokens": 10_000, "budget_days": 30}


async def test_the_relay_goes_on_without_the_database(postgres_server: str, migrated_dsn: str, tmp_path: Path) -> None:
    async with open_pool(migrated_dsn, size=1) as pool:
        stranger = await create_key(pool, "not seen before the outage", ["chat"])
        limited = await create_key(pool, "limited", ["chat"])  # before the start: it would move the epoch
        async with pool.connection() as connection:
            await connection.execute("update api_keys set limits = %s where name = 'limited'", (Jsonb(LIMITS),))
    async with studio_over(migrated_dsn, tmp_path) as studio:
        await studio.chat_worker("w")
        await answers(lambda: _is(studio, studio.key, 200), "an answer")
        await answers(lambda: _is(studio, limited, 200), "an answer of the limited key")
        async with away(postgres_server, migrated_dsn):
            told = [asyncio.ensure_future(_chat(studio, stranger)), asyncio.ensure_future(_keys(studio))]
            held = Counter(
                one.status_code for one in await asyncio.gather(*(_chat(studio, limited) for _ in range(50)))
            )
            assert held[200] > 5, "a fiftieth of its budget was held"
            assert held[503] == 50 - held[200] > 0, "and more was not given out"
            while not all(each.done() for each in told):
                assert (await _chat(studio, studio.key)).status_code == 200
            moved = await studio.chat_worker("w")  # the same worker, back under another address
            answer = await _chat(studio, studio.key)
            assert (answer.status_code, len(await moved.received())) == (200, 1)
            for refused in await soon(asyncio.gather(*told)):
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
                assert refused.headers["retry-after"]
            assert (await studio.http.get("/readyz")).status_code == 503
        run = answer.headers["x-run-id"]
        await answers(lambda: _is(studio, stranger, 200), "a key that was not known")
        await answers(lambda: _is(studio, limited, 200), "quotas")
        await answers(lambda: _there(studio, "/readyz"), "readiness")
        await answers(lambda: _there(studio, f"/v1/runs/{run}"), "the run of the outage")


async def _chat(studio: Studio, key: str) -> httpx2.Response:
    return await studio.post("/v1/chat/completions", CHAT, key=key)


async def _keys(studio: Studio) -> httpx2.Response:
    return await studio.post("/v1/keys", {"name": "late", "scopes": ["chat"]})


async def _is(studio: Studio, key: str, status: int) -> bool:
    return (await _chat(studio, key)).status_code == status


async def _there(studio: Studio, path: str) -> bool:
    return (await studio.get(path)).status_code == 200
