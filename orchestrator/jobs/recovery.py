"""Taking up what a dead orchestrator left, and what an upgrade left.

Each orchestrator holds an advisory lock for its executor id, and shares one for its version. A lock that is free for
`grace` seconds of a database that answers means that its holder is gone: a restart of the database frees all locks, and
whoever lives takes its own again within a second. The reaper then puts the runs of the dead back into their queue. It
may be wrong about a death: the durable engine then lets only the newer run keep what it does.

An upgrade that changes no steps keeps VERSION, and running work goes on. One that changes them raises it. Of what older
versions left, once no orchestrator of theirs lives: what had finished no step begins under the new version, what had is
ended as failed (`upgraded`), since its finished steps would not be recognised.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from typing import Any

import psycopg
from dbos import DBOS
from prometheus_client import Counter
from sqlalchemy.exc import DBAPIError

from core.db.connection import connect
from core.errors import Unavailable
from orchestrator.jobs.plain import kept_error
from orchestrator.jobs.runs import VERSION, Runs, queued
from orchestrator.jobs.values import End

log = logging.getLogger(__name__)

Held = psycopg.AsyncConnection[dict[str, Any]]
"""The connection that holds this orchestrator's locks."""

LOOK_SECONDS = 1.0
GRACE_SECONDS = 5.0
ORPHAN_SECONDS = 15.0
AT_ONCE = "_dbos_internal_queue"  # the durable engine's own queue, of which it takes everything at once
# A machine that loses its power closes no connection: the server finds out by these, and frees the lock.
KEEPALIVE = "set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 3"

REAPED = Counter("soundstage_executors_reaped_total", "Dead orchestrators whose runs were taken up.")

_ATTENDED = """state = 'running' and ended_at is null
   and not exists (select from dbos.workflow_status w where w.workflow_uuid = j.id)"""  # the engine knows nothing of it
_OTHERS = f"""
select executor_id as id from dbos.workflow_status
 where status = 'PENDING' and executor_id <> %(me)s and application_version = %(version)s
union select executor from jobs j where executor <> %(me)s and version = %(version)s and {_ATTENDED}
"""  # noqa: S608 - constants
_LEFT = f"select id from jobs j where executor = %s and version = %s and {_ATTENDED} limit 500"  # noqa: S608
_VERSIONS = f"""
select application_version as id from dbos.workflow_status
 where status in ('PENDING', 'ENQUEUED') and application_version <> %(version)s
union select version from jobs j where version <> %(version)s and {_ATTENDED}
"""  # noqa: S608
_OF_VERSION = f"""
select id, attended,
       exists (select from job_events e where e.job = id and e.name = 'pipeline.step.completed')
    or exists (select from dbos.operation_outputs o where o.workflow_uuid = id) as touched
  from (select workflow_uuid as id, false as attended from dbos.workflow_status
         where status in ('PENDING', 'ENQUEUED') and application_version = %(version)s
        union all select id, true from jobs j where version = %(version)s and {_ATTENDED}) left_behind limit 500
"""  # noqa: S608
_ADOPT = """
update dbos.workflow_status
   set application_version = %s, status = 'ENQUEUED', owner_xid = null, started_at_epoch_ms = null,
       queue_name = coalesce(queue_name, %s)
 where workflow_uuid = %s and application_version = %s and status in ('PENDING', 'ENQUEUED')
"""
_ORPHANS = f"""
select id from jobs j where executor = %s and id <> all(%s) and started_at < now() - make_interval(secs => %s)
   and {_ATTENDED} limit 500
"""  # noqa: S608


def lock_key(kind: str, name: str) -> int:
    """The number of an advisory lock."""
    return int.from_bytes(hashlib.sha256(f"soundstage {kind} {name}".encode()).digest()[:8], "big", signed=True)


class Reaper:
    """Holds this orchestrator's locks, and looks for free ones. One for each process."""

    def __init__(self, dsn: str, runs: Runs, grace: float = GRACE_SECONDS) -> None:
        self._dsn = dsn
        self._runs = runs
        self._grace = grace
        self._look = min(LOOK_SECONDS, grace / 4)
        self._free: dict[tuple[str, str], float] = {}  # since when, on the monotonic clock

    async def hold(self) -> Held:
        """A connection that holds both locks for as long as it lives."""
        connection = await connect(self._dsn)
        async with contextlib.AsyncExitStack() as unless_held:
            unless_held.push_async_callback(connection.close)
            await connection.execute(KEEPALIVE)
            await connection.execute("select pg_advisory_lock_shared(%s)", (lock_key("version", VERSION),))
            await connection.execute("select pg_advisory_lock(%s)", (lock_key("executor", self._runs.executor),))
            unless_held.pop_all()
        return connection

    async def watch(self, held: Held) -> None:
        """Until cancelled; the locks are taken again where their connection broke."""
        while True:
            try:
                async with held:
                    while True:
                        await self.look(held)
                        await asyncio.sleep(self._look)
            except (psycopg.Error, DBAPIError, OSError, TimeoutError) as exc:
                log.warning("the locks are lost; taking them again", extra={"reason": exc})
            self._free.clear()  # nobody's lock was held while the database was away
            held = await self._again()

    async def _again(self) -> Held:
        while True:
            with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
                return await self.hold()
            await asyncio.sleep(self._look)

    async def look(self, held: Held) -> None:
        """Once: take up what the dead left, what an upgrade left, and what this process was to begin and did not."""
        await self._runs.look_for_cancelled()
        me = {"me": self._runs.executor, "version": VERSION}
        for row in await self._rows(held, _OTHERS, me):
            if await self._is_free(held, "executor", row["id"]):
                await self._take_up(held, row["id"])
        for row in await self._rows(held, _VERSIONS, me):
            if await self._is_free(held, "version", row["id"]):
                await self._upgrade(held, row["id"])
        await self._enqueue(held, _ORPHANS, (self._runs.executor, self._runs.here(), ORPHAN_SECONDS))

    async def _enqueue(self, held: Held, query: str, given: Any) -> int:
        """Give runs that nobody carries out to the durable engine; how many there were. Somebody waits for them: they
        do not stand in line with background jobs."""
        found = await self._rows(held, query, given)
        for row in found:
            await held.execute(*queued(row["id"], AT_ONCE, None, 0))
        return len(found)

    async def _rows(self, held: Held, query: str, given: Any) -> list[dict[str, Any]]:
        return await (await held.execute(query.encode(), given)).fetchall()

    async def _is_free(self, held: Held, kind: str, name: str) -> bool:
        """Whether nobody has held it for the time of grace. Then it is held until `_release`."""
        query, now = "select pg_try_advisory_lock(%s) as mine", time.monotonic()
        row = await (await held.execute(query, (lock_key(kind, name),))).fetchone()
        if row is None or not row["mine"]:
            self._free.pop((kind, name), None)
            return False
        if now - self._free.setdefault((kind, name), now) >= self._grace:
            return True
        await self._release(held, kind, name)
        return False

    async def _release(self, held: Held, kind: str, name: str) -> None:
        await held.execute("select pg_advisory_unlock(%s)", (lock_key(kind, name),))

    async def _take_up(self, held: Held, executor: str) -> None:
        """Back into the queue with the runs of a dead orchestrator; each is then begun by one who is free."""
        try:
            # The engine has no public name for this; its version is pinned, and the tests kill processes.
            found = len(await asyncio.to_thread(DBOS._recover_pending_workflows, [executor]))
            found += await self._enqueue(held, _LEFT, (executor, VERSION))
            REAPED.inc()
            log.warning("runs of a dead orchestrator taken up", extra={"executor": executor, "runs": found})
        finally:
            self._free.pop(("executor", executor), None)
            await self._release(held, "executor", executor)

    async def _upgrade(self, held: Held, version: str) -> None:
        """What older steps left: untouched runs begin anew, the others end."""
        try:
            for row in await self._rows(held, _OF_VERSION, {"version": version}):
                if row["touched"]:
                    late = Unavailable("The studio was upgraded while this ran: send it again.", code="upgraded")
                    await self._runs.cancel(row["id"], End("failed", None, kept_error(late)))
                    await DBOS.cancel_workflow_async(row["id"])
                elif row["attended"]:
                    await held.execute(*queued(row["id"], AT_ONCE, None, 0))
                else:
                    await held.execute(_ADOPT.encode(), (VERSION, AT_ONCE, row["id"], version))
        finally:
            await self._release(held, "version", version)
