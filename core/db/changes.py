"""Changes that an audit chain keeps: one transaction, by somebody, for somebody."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from core.db.pool import Pool
from core.errors import Conflict, InvalidRequest

Connection = AsyncConnection[DictRow]


@dataclass(frozen=True)
class Writer:
    """Who changes something, and for whom: `tenant` None is everyone."""

    actor: str
    tenant: str | None = None


@asynccontextmanager
async def changing(pool: Pool, writer: Writer) -> AsyncIterator[Connection]:
    """One transaction of a writer. What the database forbids is raised as Conflict or InvalidRequest."""
    try:
        async with pool.connection() as connection, connection.transaction():
            await connection.execute("select set_config('soundstage.actor', %s, true)", (writer.actor,))
            yield connection
    except psycopg.errors.RestrictViolation as exc:
        raise Conflict(exc.diag.message_primary or "Forbidden.", code="forbidden_write") from exc
    except (psycopg.errors.IntegrityError, psycopg.errors.DataError) as exc:
        raise InvalidRequest(exc.diag.message_primary or "Not valid.", code="invalid_value") from exc
