"""Jobs that a program before this one queued: it kept its queue in the schema `dbos`, by a library of that name.

Their rows of `jobs` have no pool, so nobody claims them. What nobody has begun is withdrawn from the other queue in the
statement that gives it a place in this one: an older program that still lives cannot begin it, too. What that has begun
it finishes; where it dies, its runs are put back as everyone's. If it begins one all the same, it counts an attempt,
which is the fence for both. Without the schema, every row without a pool is ours.
"""

import json
from collections.abc import Mapping
from typing import Any

import psycopg

from orchestrator.jobs.values import AT_ONCE, VERSION, pool_of
from orchestrator.pipelines.base import Pipeline

_LOOK = """
select to_regclass('dbos.workflow_status') is not null as there,
       exists (select from jobs where state = 'queued' and pool is null)
    or exists (select from jobs where state = 'running' and pool is null) as rows
"""
_POOL = """version = coalesce(version, %(version)s), pool =
       case when way = 'background' then coalesce(%(pools)s::jsonb ->> pipeline, 'images') else %(at_once)s end"""
_OURS = f"update jobs set {_POOL} where pool is null and state in ('queued', 'running')"  # noqa: S608
_NOT_THEIRS = """
   and (state = 'running' or not exists (
       select from dbos.workflow_status w where w.workflow_uuid = id and w.status in ('ENQUEUED', 'PENDING')))
"""
_WITHDRAW = f"""
with withdrawn as (
    update dbos.workflow_status set status = 'CANCELLED'
     where (status = 'ENQUEUED' and application_version = %(of)s)
        or (status = 'PENDING' and (executor_id = %(dead)s or application_version = %(dead)s))
    returning workflow_uuid, application_version)
update jobs set state = 'queued', executor = null, {_POOL.replace("%(version)s", "application_version")}
  from withdrawn where id = workflow_uuid and ended_at is null
"""  # noqa: S608 - constants
_OTHERS = """
select distinct 'executor' as kind, executor_id as name from dbos.workflow_status
 where status = 'PENDING' and application_version = %(version)s
union all select distinct 'version', application_version from dbos.workflow_status
 where status in ('ENQUEUED', 'PENDING') and application_version <> %(version)s
"""


class OlderQueue:
    """The other queue, where there is one."""

    def __init__(self, pipelines: Mapping[str, Pipeline]) -> None:
        pools = json.dumps({name: pool_of(pipeline) for name, pipeline in pipelines.items()})
        self._given = {"pools": pools, "at_once": AT_ONCE, "version": VERSION}
        self._there = False

    async def look(self, connection: psycopg.AsyncConnection[Any]) -> list[dict[str, Any]]:
        """Take what nobody has begun; {kind, name} of executors and versions that have more there."""
        (row,) = await (await connection.execute(_LOOK)).fetchall()
        self._there = row["there"]
        await self.withdraw(connection)
        if row["rows"]:
            query = _OURS + (_NOT_THEIRS if self._there else "")
            await connection.execute(query.encode(), self._given)
        return await (await connection.execute(_OTHERS, self._given)).fetchall() if self._there else []

    async def withdraw(
        self, connection: psycopg.AsyncConnection[Any], *, executor: str | None = None, version: str | None = None
    ) -> int:
        """Take what is queued under this version (None: ours), and what a dead executor, or any of this version, had
        begun; how many."""
        if not self._there:
            return 0
        given = {**self._given, "of": version or VERSION, "dead": executor or version}
        return (await connection.execute(_WITHDRAW.encode(), given)).rowcount
