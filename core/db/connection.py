"""A connection whose every exchange with the server has an end.

A server that is stopped, or whose machine is gone, closes nothing: a statement would wait for minutes, and a statement
that is cancelled would wait for the same server to confirm that. So the connection is cut on this side: the statement
then fails as with a server that went away, and the pool makes another connection.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row

log = logging.getLogger(__name__)

STATEMENT_SECONDS = 10.0
PATIENT_SECONDS = 120.0
CONNECT_SECONDS = 5  # whole ones: libpq's own setting


class Connection(AsyncConnection[DictRow]):
    """`statement_seconds`: the longest that the server may take for one exchange."""

    statement_seconds = STATEMENT_SECONDS

    async def wait(self, *args: Any, **kwargs: Any) -> Any:
        cut = asyncio.get_running_loop().call_later(self.statement_seconds, self._cut)
        try:
            return await super().wait(*args, **kwargs)
        finally:
            cut.cancel()

    def _cut(self) -> None:
        """End it on this side: whoever reads from it finds its end."""
        log.warning("the database did not answer in time", extra={"seconds": self.statement_seconds})
        with socket.socket(fileno=os.dup(self.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)


async def connect(dsn: str) -> Connection:
    """One of its own, outside the pool: committing by itself, with rows as dicts."""
    return await Connection.connect(dsn, autocommit=True, row_factory=dict_row, connect_timeout=CONNECT_SECONDS)


async def listener(dsn: str) -> AsyncConnection[DictRow]:
    """The same for `listen`: it waits for news, however long none comes. That its machine is gone TCP finds out."""
    alive: dict[str, Any] = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
    given = make_conninfo(dsn, connect_timeout=CONNECT_SECONDS, **alive)
    return await AsyncConnection.connect(given, autocommit=True, row_factory=dict_row)


@contextmanager
def patient(connection: AsyncConnection[Any], seconds: float = PATIENT_SECONDS) -> Iterator[None]:
    """More time for the statements of the block, for which nobody waits: a purge, a wait for another's lock."""
    if not isinstance(connection, Connection):
        yield
        return
    before, connection.statement_seconds = connection.statement_seconds, seconds
    try:
        yield
    finally:
        connection.statement_seconds = before
