"""The pool gives out connections that live, without asking the server before each statement."""

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from core.db.connection import STATEMENT_SECONDS, Connection
from core.db.pool import Pool, open_pool, patiently
from tests.fakes.cable import cable
from tests.fakes.wait import LIMIT_SECONDS, soon


async def one(pool: Pool) -> int:
    async with pool.connection() as connection:
        row = await (await connection.execute("select pg_backend_pid() as pid")).fetchone()
    assert row is not None
    return int(row["pid"])


async def test_a_connection_that_the_server_closed_is_replaced(postgres_dsn: str) -> None:
    async with open_pool(postgres_dsn, size=1) as pool, open_pool(postgres_dsn, size=1) as other:
        before = await one(pool)
        async with other.connection() as connection:
            await connection.execute("select pg_terminate_backend(%s, 5000)", (before,))
        async with asyncio.timeout(90):
            assert await one(pool) != before


async def test_a_quiet_connection_costs_no_round_trip(postgres_dsn: str) -> None:
    with patch.object(AsyncConnectionPool, "check_connection", side_effect=AssertionError) as asked:
        async with open_pool(postgres_dsn, size=1) as pool:
            assert await one(pool) == await one(pool)
    asked.assert_not_called()


async def test_a_statement_that_is_not_answered_is_given_up_and_its_connection_replaced(postgres_dsn: str) -> None:
    async with open_pool(postgres_dsn, size=1) as pool:
        before = await one(pool)
        with pytest.raises(psycopg.OperationalError):
            async with pool.connection() as connection:
                await asleep(connection)
        assert await soon(one(pool)) != before


async def test_one_who_leaves_meanwhile_waits_no_longer(postgres_dsn: str) -> None:
    """A cancelled statement asks the server to confirm that; one that is stopped confirms nothing."""
    async with open_pool(postgres_dsn, size=1) as pool:
        begun = asyncio.Event()

        async def asks() -> None:
            async with pool.connection() as connection:
                begun.set()
                await asleep(connection)

        asking = asyncio.ensure_future(asks())
        await soon(begun.wait())
        asking.cancel()
        await soon(asyncio.wait([asking]))
        assert await soon(one(pool)) > 0


async def test_a_purge_may_take_its_time(postgres_dsn: str) -> None:
    async with open_pool(postgres_dsn, size=1) as pool:
        async with pool.connection() as connection:
            usual = seconds(connection)
        async with patiently(pool) as connection:
            assert seconds(connection) > usual == STATEMENT_SECONDS
        async with pool.connection() as connection:
            assert seconds(connection) == usual


def seconds(connection: psycopg.AsyncConnection[Any]) -> float:
    assert isinstance(connection, Connection)
    return connection.statement_seconds


async def asleep(connection: psycopg.AsyncConnection[Any]) -> None:
    """A statement that is not answered within its time."""
    assert isinstance(connection, Connection)
    connection.statement_seconds = 0.3
    await connection.execute("select pg_sleep(600)")


async def test_it_is_well_again_after_an_outage_in_which_too_many_asked(
    postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gave up still counts as waiting, so nobody may ask: the pool must try on by itself."""
    monkeypatch.setattr("core.db.pool.MAX_WAITING", 3)
    monkeypatch.setattr("core.db.pool.RECONNECT_SECONDS", 0.2)
    gone = Exception()

    async with cable(postgres_dsn, tmp_path) as line, open_pool(line.dsn, size=1, wait_seconds=0.2) as pool:

        async def asks() -> object:
            try:
                return await one(pool)
            except psycopg.OperationalError:
                return gone

        assert await asks() is not gone
        line.cut()
        while not pool.get_stats().get("requests_errors"):
            await asks()
        assert [await asks() for _ in range(6)] == [gone] * 6
        await asyncio.sleep(1)  # longer than it tries to connect
        await line.mend()
        async with asyncio.timeout(LIMIT_SECONDS):
            while await asks() is gone:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(0.1)
