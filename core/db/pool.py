"""The connection pool."""

import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]

WAIT_SECONDS = 5.0
MAX_WAITING = 256


@asynccontextmanager
async def open_pool(dsn: str, *, size: int = 8, wait_seconds: float = WAIT_SECONDS) -> AsyncIterator[Pool]:
    """A pool of autocommit connections with rows as dicts. A wait for one is bounded in time and in number."""
    async with opened(make_pool(dsn, size=size, wait_seconds=wait_seconds)) as pool:
        yield pool


def make_pool(dsn: str, *, size: int = 8, wait_seconds: float = WAIT_SECONDS) -> Pool:
    """The same pool, not yet open."""
    options: dict[str, Any] = {"autocommit": True, "row_factory": dict_row}
    return AsyncConnectionPool(
        dsn,
        kwargs=options,
        min_size=1,
        max_size=size,
        timeout=wait_seconds,
        max_waiting=MAX_WAITING,
        open=False,
        check=_check,
    )


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
