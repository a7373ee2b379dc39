"""The connection pool. Whoever asks it has a connection, an answer or an error within a stated time."""

import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from core.db.connection import CONNECT_SECONDS, STATEMENT_SECONDS, Connection, patient

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]

MIN_SIZE = 1
WAIT_SECONDS = 5.0
MAX_WAITING = 256
RECONNECT_SECONDS = 10.0
"""For tries with growing pauses, so these stay short: one that gave up begins anew when somebody asks."""


@asynccontextmanager
async def open_pool(dsn: str, *, size: int = 8, **seconds: float) -> AsyncIterator[Pool]:
    """What `make_pool` makes, open for as long as the block runs."""
    async with opened(make_pool(dsn, size=size, **seconds)) as pool:
        yield pool


def make_pool(
    dsn: str, *, size: int = 8, wait_seconds: float = WAIT_SECONDS, statement_seconds: float = STATEMENT_SECONDS
) -> Pool:
    """A pool of autocommit connections with rows as dicts, not yet open. A wait for one is bounded in time and in
    number, and so is a wait for the server's answer on it."""
    options: dict[str, Any] = {"autocommit": True, "row_factory": dict_row, "connect_timeout": CONNECT_SECONDS}

    async def configure(connection: AsyncConnection[Any]) -> None:
        assert isinstance(connection, Connection)
        connection.statement_seconds = statement_seconds

    return AsyncConnectionPool(
        dsn,
        connection_class=Connection,
        kwargs=options,
        configure=configure,
        reconnect_timeout=RECONNECT_SECONDS,
        min_size=MIN_SIZE,
        max_size=size,
        timeout=wait_seconds,
        max_waiting=MAX_WAITING,
        reconnect_failed=_begin_again,
        open=False,
        check=_check,
    )


async def _begin_again(pool: AsyncConnectionPool[Any]) -> None:
    """Try on: who gave up waiting still counts as waiting until there is a connection, so nobody may ask any more."""
    await pool.resize(0, pool.max_size)
    await pool.resize(MIN_SIZE, pool.max_size)  # growing from less makes a connection


@asynccontextmanager
async def patiently(pool: Pool) -> AsyncIterator[AsyncConnection[DictRow]]:
    """A connection whose statements may take long: they purge, and nobody waits for them."""
    async with pool.connection() as connection:
        with patient(connection):
            yield connection


async def _check(connection: AsyncConnection[Any]) -> None:
    """Ask the server only where its end of the connection has something to say, as it has when it is gone: a round trip
    before every statement would double them."""
    if not hasattr(select, "poll"):
        await AsyncConnectionPool.check_connection(connection)
        return
    said = select.poll()
    said.register(connection.fileno(), select.POLLIN)
    if said.poll(0):
        await AsyncConnectionPool.check_connection(connection)


@asynccontextmanager
async def opened(pool: Pool) -> AsyncIterator[Pool]:
    """The pool, open for as long as the block runs."""
    await pool.open(wait=True, timeout=30)
    try:
        yield pool
    finally:
        await pool.close()
