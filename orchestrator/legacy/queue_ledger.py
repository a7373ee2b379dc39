"""What became of each job, in Postgres: one row for each id, so that a job that comes twice has its effect once."""

import os
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.types.json import Jsonb

from core.db.plain import plain
from core.db.pool import Pool, patiently
from orchestrator.operate.seal import Seal

KEPT_DAYS = 7


@dataclass(frozen=True)
class Claim:
    """`mine`: to be run now, for the time `tries`. busy: another runs it. done, failed: with its `result`."""

    state: Literal["mine", "busy", "done", "failed"]
    tries: int = 0
    result: dict[str, Any] | None = None


class Ledger:
    """One for each consumer of a queue, `holder`. `result` is sealed: it holds what was asked."""

    def __init__(self, pool: Pool, seal: Seal, queue: str, visibility: float) -> None:
        self._pool, self._seal, self._queue, self._visibility = pool, seal, queue, visibility
        self.holder = f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"

    async def begin(self, job: str) -> Claim:
        """Take it, unless it has ended or another holds it."""
        query = (
            "insert into queue_jobs as j (queue, id, tries, held_by, held_until)"
            " values (%(queue)s, %(id)s, 1, %(me)s, now() + make_interval(secs => %(held)s))"
            " on conflict (queue, id) do update set tries = j.tries + 1, held_by = excluded.held_by,"
            " held_until = excluded.held_until where j.state = 'running' and j.held_until < now() returning tries"
        )
        given = {"queue": self._queue, "id": job, "me": self.holder, "held": self._visibility}
        async with self._pool.connection() as connection:
            row = await (await connection.execute(query, given)).fetchone()
            if row is not None:
                return Claim("mine", row["tries"])
            query = "select state, tries, result from queue_jobs where queue = %(queue)s and id = %(id)s"
            row = await (await connection.execute(query, given)).fetchone()
        assert row is not None
        if row["state"] == "running":
            return Claim("busy")
        return Claim(row["state"], row["tries"], self._seal.unwrap(row["result"], self._place(job)))

    def _place(self, job: str) -> str:
        return f"{self._queue}/{job}"

    async def end(
        self, job: str, state: Literal["done", "failed"], result: dict[str, Any], tenant: str | None = None
    ) -> bool:
        """The effect, exactly once: false where another has ended it, or holds it now. `tenant`: for whom it was."""
        query = (
            "update queue_jobs set state = %s, result = %s, tenant = %s, ended_at = now(), held_by = null"
            " where queue = %s and id = %s and state = 'running' and held_by = %s"
        )
        async with self._pool.connection() as connection:
            sealed = self._seal.wrap(plain(result), self._place(job))
            given = (state, Jsonb(sealed), tenant, self._queue, job, self.holder)
            return (await connection.execute(query, given)).rowcount == 1

    async def hold(self, job: str) -> None:
        await self._until(job, "now() + make_interval(secs => %s)", self._visibility)

    async def let_go(self, job: str) -> None:
        """It may be tried again at once."""
        await self._until(job, "'-infinity'::timestamptz - make_interval(secs => %s)", 0)

    async def _until(self, job: str, when: str, seconds: float) -> None:
        query = f"update queue_jobs set held_until = {when} where queue = %s and id = %s and held_by = %s"  # noqa: S608 - constants only
        async with self._pool.connection() as connection:
            await connection.execute(query.encode(), (seconds, self._queue, job, self.holder))

    async def purge(self) -> None:
        """Forget jobs that ended long ago: longer than any queue delivers one twice."""
        query = "delete from queue_jobs where ended_at < now() - make_interval(days => %s)"
        async with patiently(self._pool) as connection:
            await connection.execute(query, (KEPT_DAYS,))
