"""With the database away prompts go on from memory and say how old they are; what memory cannot tell is refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest
from psycopg import sql

from core.db.changes import Writer
from core.db.pool import open_pool
from orchestrator.access.keys import create_key
from prompts.store import save_release
from tests.fakes.studio import Studio, studio_over
from tests.orchestrator.test_prompts_api import named
from tests.prompts.recipes import recipe

pytestmark = pytest.mark.slow  # two waits for a connection that does not come, 5 s each, at once

RELAYED = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}


@asynccontextmanager
async def away(server: str, dsn: str) -> AsyncIterator[None]:
    """The database lets nobody in, and ends the connections that there are."""
    name = urlsplit(dsn).path[1:]
    doors = sql.SQL("alter database {} allow_connections {}")
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as connection:
        await connection.execute(doors.format(sql.Identifier(name), sql.Literal(False)))
        await connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        try:
            yield
        finally:
            await connection.execute(doors.format(sql.Identifier(name), sql.Literal(True)))


async def prepared(dsn: str) -> str:
    """A recipe and another tenant's key, made before the orchestrator starts: it has read the epoch they moved."""
    async with open_pool(dsn, size=1) as pool:
        await save_release(pool, recipe(), Writer("key_test"))
        async with pool.connection() as connection:
            await connection.execute("insert into tenants (id) values ('acme')")
        return await create_key(pool, "stranger", ["chat"], tenant="acme")


async def known(studio: Studio) -> httpx2.Response:
    answer = await studio.post("/v1/chat/completions", named("1"))
    assert (answer.status_code, answer.headers["x-prompt-release"]) == (200, "greet@1"), answer.text
    return answer


async def test_prompts_go_on_and_the_policy_fails_closed(
    postgres_server: str, migrated_dsn: str, tmp_path: Path
) -> None:
    stranger = await prepared(migrated_dsn)
    async with studio_over(migrated_dsn, tmp_path) as studio:
        await studio.proving_worker()
        await known(studio)
        assert (await studio.get("/v1/models", key=stranger)).status_code == 200  # known as a key, never judged
        async with away(postgres_server, migrated_dsn):
            while float((answer := await known(studio)).headers["x-epoch-age"]) < 2.5:  # polled each second before
                pass
            unknown, unjudged, unmoderated = await asyncio.gather(
                studio.post("/v1/chat/completions", {"prompt": {"id": "caption", "variables": {"prompt": "a boat"}}}),
                studio.post("/v1/chat/completions", RELAYED, key=stranger),
                studio.post("/v1/moderations", {"input": "a boat"}, key=stranger),
            )
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (503, "database_away")
            for refused in (unjudged, unmoderated):
                assert (refused.status_code, refused.json()["error"]["code"]) == (422, "check_failed")
        while float((await known(studio)).headers["x-epoch-age"]) > 2:
            pass
        run = (await studio.get(f"/v1/runs/{answer.headers['x-run-id']}")).json()
        assert (run["recipe"], run["status"]) == ("greet", 200)  # it waited, and was written


async def test_a_policy_that_was_not_confirmed_for_too_long_holds_no_more(
    postgres_server: str, migrated_dsn: str, tmp_path: Path
) -> None:
    await prepared(migrated_dsn)
    async with studio_over(migrated_dsn, tmp_path, policy_stale_seconds=4) as studio:
        worker = await studio.proving_worker()
        await known(studio)
        async with away(postgres_server, migrated_dsn):
            while (answer := await studio.post("/v1/chat/completions", named("1"))).status_code == 200:
                pass
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "check_failed")
            before = len(worker.received)
            await studio.post("/v1/chat/completions", named("1"))
            assert len(worker.received) == before
        while (await studio.post("/v1/chat/completions", named("1"))).status_code != 200:
            pass
