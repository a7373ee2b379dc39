"""The leases of workers in Postgres: what every orchestrator was told, and which workers an admin drains."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from core.db.pool import Pool
from core.errors import Conflict, NotFound, Unavailable
from core.wire.workers import Announcement

SAVE_SECONDS = 2.0
"""Longest wait for the database in a heartbeat: well below the worker's own patience."""


class LeaseTable(NamedTuple):
    """`rows`: {id, announcement, owner, seconds} of each lease that holds, by id."""

    rows: dict[str, dict[str, Any]]
    drained: set[str]


class Leases:
    def __init__(self, pool: Pool, seconds: float) -> None:
        self._pool, self.seconds = pool, seconds

    async def save(self, announcement: Announcement, owner: str) -> bool:
        """False where another key holds the lease."""
        whole = announcement.model_dump(mode="json")
        async with self._pool.connection(timeout=SAVE_SECONDS) as connection:
            cursor = await connection.execute(
                "insert into workers (id, kind, url, announcement, lease_until, owner)"
                " values (%(id)s, %(kind)s, %(url)s, %(whole)s, now() + make_interval(secs => %(seconds)s), %(owner)s)"
                " on conflict (id) do update set kind = excluded.kind, url = excluded.url,"
                " announcement = excluded.announcement, lease_until = excluded.lease_until, owner = excluded.owner"
                " where workers.owner is null or workers.owner = excluded.owner or workers.lease_until < now()",
                {**whole, "whole": Jsonb(whole), "seconds": self.seconds, "owner": owner},
            )
        return cursor.rowcount == 1

    async def end(self, worker_id: str, owner: str | None) -> bool:
        """False where there was none. `owner`: the key that holds it; None is an admin, who may end any. Raises
        Conflict where another key holds it, Unavailable."""
        query = (
            "delete from workers where id = %(id)s and (%(owner)s::text is null or owner is null or owner = %(owner)s)"
        )
        async with self._connection() as connection:
            cursor = await connection.execute(query, {"id": worker_id, "owner": owner})
            if cursor.rowcount:
                await connection.execute("delete from drained_workers where worker = %s", (worker_id,))
                return True
            row = await (await connection.execute("select 1 from workers where id = %s", (worker_id,))).fetchone()
        if row is not None:
            raise of_another_key(worker_id)
        return False

    async def drain(self, worker_id: str, *, drained: bool, actor: str) -> None:
        """Raises Unavailable."""
        statement = (
            "insert into drained_workers (worker) values (%s) on conflict do nothing"
            if drained
            else "delete from drained_workers where worker = %s"
        )
        async with self._connection() as connection, connection.transaction():
            await connection.execute("select set_config('soundstage.actor', %s, true)", (actor,))
            await connection.execute(statement.encode(), (worker_id,))

    async def read(self) -> LeaseTable:
        """Those that hold now; such as ended an hour ago are forgotten."""
        query = (
            "select id, announcement, owner, extract(epoch from lease_until - now())::float8 as seconds"
            " from workers where lease_until > now()"
        )
        async with self._pool.connection() as connection:
            rows = {row["id"]: row for row in await (await connection.execute(query)).fetchall()}
            drained = await (await connection.execute("select worker from drained_workers")).fetchall()
            await connection.execute("delete from workers where lease_until < now() - interval '1 hour'")
        return LeaseTable(rows, {row["worker"] for row in drained})

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[DictRow]]:
        """For somebody who waits. Raises Unavailable."""
        try:
            async with self._pool.connection(timeout=SAVE_SECONDS) as connection:
                yield connection
        except psycopg.OperationalError as exc:
            raise Unavailable("The database does not answer.", code="database_unavailable", retry_after=2) from exc


def of_another_key(worker_id: str) -> Conflict:
    return Conflict(f"The lease of `{worker_id[:100]}` is another key's.", param="id", code="lease_of_another_key")


def unknown_worker(worker_id: str) -> NotFound:
    return NotFound(f"No worker `{worker_id[:100]}` is registered.", code="worker_not_found")
