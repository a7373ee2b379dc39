"""The pool gives out connections that live, without asking the server before each statement."""

import asyncio
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from core.db.connection import STATEMENT_SECONDS, Connection
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
