"""The pool gives out connections that live, without asking the server before each statement."""

import asyncio
from unittest.mock import patch

from psycopg_pool import AsyncConnectionPool

from core.db.pool import Pool, open_pool


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
