"""What a dead orchestrator left, and what an upgrade left, goes back into the queue.

Each orchestrator holds an advisory lock for its executor id, and shares one for its version. A lock that is free for
`grace` seconds of a database that answers means that its holder is gone: a restart of the database frees all locks, and
whoever lives takes its own again within a second. One UPDATE then puts back what the dead had at work. It may be wrong
about a death: the next claim counts an attempt, and nothing more of the older one is kept.

An upgrade that changes no steps keeps VERSION, and running work goes on. One that changes them raises it. Of what older
versions left, once no orchestrator of theirs lives: what had finished no step begins under the new version, what had is
ended as failed (`upgraded`), since its finished steps would not be recognised.
"""

import asyncio
import contextlib
import logging
import time
from typing import Any

import psycopg
from prometheus_client import Counter

from core.db.connection import connect
from core.db.errors import DATABASE_AWAY
from core.db.plain import error_record
from core.errors import Unavailable
from orchestrator.jobs.executor import Executor
from orchestrator.jobs.locks import lock_key
from orchestrator.jobs.older import OlderQueue
from orchestrator.jobs.queue import requeue
from orchestrator.jobs.values import VERSION, End

log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[dict[str, Any]]

LOOK_SECONDS = 1.0
GRACE_SECONDS = 5.0
FORGOTTEN_SECONDS = 15.0  # at work here by its row, and not: an answer of the database was lost
# A machine that loses its power closes no connection: the server finds out by these, and frees the lock.
KEEPALIVE = "set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 3"

REAPED = Counter("soundstage_executors_reaped_total", "Dead orchestrators whose runs were taken up.")

_OTHERS = """
select distinct 'executor' as kind, executor as name from jobs
 where state = 'running' and executor <> %(me)s and version = %(version)s
union all select distinct 'version', version from jobs where state in ('queued', 'running') and version <> %(version)s
"""
_TOUCHED = """
select id from jobs j where state in ('queued', 'running') and version = %s
   and exists (select from job_events e where e.job = j.id and e.name = 'pipeline.step.completed')
"""
_ADOPT = "update jobs set state = 'queued', executor = null, version = %s where ended_at is null and version = %s"


class Recovery:
    """Holds this orchestrator's locks, and looks for free ones. One for each process."""

    def __init__(self, dsn: str, executor: Executor, grace: float = GRACE_SECONDS) -> None:
        self._dsn = dsn
        self._executor = executor
        self._older = OlderQueue(executor.pipelines)
        self._grace = grace
        self._look = min(LOOK_SECONDS, grace / 4)
        self._free: dict[tuple[str, str], float] = {}  # since when, on the monotonic clock

    async def hold(self) -> Connection:
        """A connection that holds both locks for as long as it lives."""
        connection = await connect(self._dsn)
        async with contextlib.AsyncExitStack() as unless_held:
            unless_held.push_async_callback(connection.close)
            await connection.execute(KEEPALIVE)
            await connection.execute("select pg_advisory_lock_shared(%s)", (lock_key("version", VERSION),))
            await connection.execute("select pg_advisory_lock(%s)", (lock_key("executor", self._executor.id),))
            unless_held.pop_all()
        return connection

    async def watch(self, connection: Connection) -> None:
        """Until cancelled; the locks are taken again where their connection broke."""
        while True:
            try:
                async with connection:
                    while True:
                        await self.look(connection)
                        await asyncio.sleep(self._look)
            except (psycopg.Error, *DATABASE_AWAY) as exc:
                log.warning("the locks are lost; taking them again", extra={"reason": exc})
            self._free.clear()  # nobody's lock was held while the database was away
            connection = await self._again()

    async def _again(self) -> Connection:
        while True:
            with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
                return await self.hold()
            await asyncio.sleep(self._look)

    async def look(self, connection: Connection) -> None:
        """Once: what the dead left, what an upgrade left, and what this process was to carry out and does not."""
        await self._executor.look_for_cancelled()
        older = await self._older.look(connection)
        given = {"me": self._executor.id, "version": VERSION}
        rows = await (await connection.execute(_OTHERS, given)).fetchall()
        for kind, name in {(row["kind"], row["name"]) for row in (*rows, *older)} - {("executor", self._executor.id)}:
            if await self._is_free(connection, kind, name):
                try:
                    await (self._requeue if kind == "executor" else self._upgrade)(connection, name)
                finally:
                    self._free.pop((kind, name), None)
                    await self._release(connection, kind, name)
        async with self._executor.claiming:
            here = self._executor.here()
            await requeue(connection, self._executor.id, but=here, seconds=FORGOTTEN_SECONDS)

    async def _is_free(self, connection: Connection, kind: str, name: str) -> bool:
        """Whether nobody has held it for the time of grace. Then it is held until `_release`."""
        query, now = "select pg_try_advisory_lock(%s) as mine", time.monotonic()
        row = await (await connection.execute(query, (lock_key(kind, name),))).fetchone()
        if row is None or not row["mine"]:
            self._free.pop((kind, name), None)
            return False
        if now - self._free.setdefault((kind, name), now) >= self._grace:
            return True
        await self._release(connection, kind, name)
        return False

    async def _release(self, connection: Connection, kind: str, name: str) -> None:
        await connection.execute("select pg_advisory_unlock(%s)", (lock_key(kind, name),))

    async def _requeue(self, connection: Connection, executor: str) -> None:
        runs = await self._older.withdraw(connection, executor=executor)
        runs += await requeue(connection, executor)
        REAPED.inc()
        log.warning("runs of a dead orchestrator are queued again", extra={"executor": executor, "runs": runs})

    async def _upgrade(self, connection: Connection, version: str) -> None:
        """What older steps left: untouched runs begin anew, the others end."""
        await self._older.withdraw(connection, version=version)
        late = Unavailable("The studio was upgraded while this ran: send it again.", code="upgraded")
        for row in await (await connection.execute(_TOUCHED, (version,))).fetchall():
            await self._executor.cancel(row["id"], End("failed", None, error_record(late)))
        await connection.execute(_ADOPT, (VERSION, version))
