"""The pool gives out connections that live, without asking the server before each statement."""

import asyncio
from unittest.mock import patch

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from core.db.pool import Pool, open_pool, patiently
from tests.fakes.wait import soon


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
    async with open_pool(postgres_dsn, size=1, statement_seconds=0.3) as pool:
        before = await one(pool)
        with pytest.raises(psycopg.OperationalError):
            async with pool.connection() as connection:
                await connection.execute("select pg_sleep(600)")
        assert await soon(one(pool)) != before


async def test_one_who_leaves_meanwhile_waits_no_longer(postgres_dsn: str) -> None:
    """A cancelled statement asks the server to confirm that; one that is stopped confirms nothing."""
    async with open_pool(postgres_dsn, size=1, statement_seconds=0.3) as pool:
        begun = asyncio.Event()

        async def asks() -> None:
            async with pool.connection() as connection:
                begun.set()
                await connection.execute("select pg_sleep(600)")

        asking = asyncio.ensure_future(asks())
        await soon(begun.wait())
        asking.cancel()
        await soon(asyncio.wait([asking]))
        assert await soon(one(pool)) > 0


async def test_a_purge_may_take_its_time(postgres_dsn: str) -> None:
    async with open_pool(postgres_dsn, size=1, statement_seconds=0.05) as pool:
        async with patiently(pool) as connection:
            await connection.execute("select pg_sleep(0.3)")
            pid = connection.info.backend_pid
        async with pool.connection() as connection:
            assert connection.info.backend_pid == pid
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("select pg_sleep(600)")
