"""The table of jobs as a queue: who may begin what next, and what goes back into the line.

A queued row has no executor. Each tenant has a line of its own in a pool's queue. A claim ranks the heads of all lines
by what the tenant has at work already, so that places are shared evenly, and takes no more than there are places.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from core.db.plain import error_record, where
from core.db.pool import Pool
from core.errors import SoundstageError, internal
from orchestrator.jobs.caller_record import caller_of
from orchestrator.jobs.locks import lock_pool
from orchestrator.jobs.store import JobStore
from orchestrator.jobs.values import VERSION, Claim, End
from orchestrator.pipelines.flow import COMPLETED

log = logging.getLogger(__name__)

MOST_AT_ONCE = 32

# Half of the free places at a time: other orchestrators claim, too. Equal ranks are drawn by lot: where there are more
# tenants than places, the oldest line would else keep its place for ever.
_CLAIM = """
with recursive lines as (
    (select tenant from jobs where state = 'queued' and pool = %(pool)s order by tenant limit 1)
    union all
    select (select j.tenant from jobs j where j.state = 'queued' and j.pool = %(pool)s and j.tenant > t.tenant
             order by j.tenant limit 1)
      from lines t where t.tenant is not null
), at_work as (
    select tenant, count(*) as jobs from jobs where state = 'running' and pool = %(pool)s group by tenant
), free as (
    select greatest(0, %(places)s - coalesce(sum(jobs), 0))::integer as places from at_work
), ranked as (
    select next.id, coalesce(w.jobs, 0) + next.position as rank
      from lines t left join at_work w using (tenant) cross join lateral (
           select id, row_number() over (order by priority desc, created_at, id) as position
             from jobs where state = 'queued' and pool = %(pool)s and tenant = t.tenant and version = %(version)s
            order by priority desc, created_at, id limit (select places from free)) next
     where t.tenant is not null
)
update jobs set state = 'running', executor = %(executor)s, attempts = attempts + 1,
                started_at = coalesce(started_at, clock_timestamp())
 where state = 'queued' and id in (
       select id from ranked order by rank, random() limit (select least(%(most)s, (places + 1) / 2) from free))
returning id, pipeline, tenant, key_id, way, priority, caller, request, attempts as attempt,
          extract(epoch from deadline_at - now())::float8 as seconds_left,
          (select limits from api_keys k where k.id = key_id) as limits,
          (select limits from tenants t where t.id = tenant) as tenant_limits,
          (select revoked_at is not null or coalesce(expires_at < now(), false) from api_keys k where k.id = key_id)
              as revoked
"""
_FINISHED = "select job, data from job_events where job = any(%s) and name = %s"
_WAITING = """
select pipeline, pool, count(*) as jobs, extract(epoch from now() - min(created_at))::float8 as oldest
  from jobs where state = 'queued' group by pipeline, pool
"""
_REQUEUE = """
with requeued as (
    update jobs set state = 'queued', executor = null
     where state = 'running' and executor = %(executor)s and version = %(version)s and id <> all(%(but)s)
       and coalesce(started_at, created_at) <= clock_timestamp() - make_interval(secs => %(seconds)s)
    returning pool)
select count(*) as jobs, pg_notify('soundstage_jobs', 'queued ' || pool) from requeued group by pool
"""


async def requeue(
    connection: AsyncConnection[DictRow], executor: str, *, but: Sequence[str] = (), seconds: float = 0.0
) -> int:
    """Put back what this executor has at work since so long, but for these; how many there were. What it still does is
    kept until another claims it."""
    given = {"executor": executor, "version": VERSION, "but": list(but), "seconds": seconds}
    return sum(row["jobs"] for row in await (await connection.execute(_REQUEUE, given)).fetchall())


class JobQueue:
    """Claims jobs. It reads their texts with the store's seal."""

    def __init__(self, database: Pool, store: JobStore) -> None:
        self._database = database
        self._store = store

    async def claim(self, pool: str, places: int, executor: str) -> list[Claim]:
        """Jobs of a pool that this executor carries out from now on: where there are free places, of so many in all."""
        given = {"pool": pool, "places": places, "executor": executor, "version": VERSION, "most": MOST_AT_ONCE}
        async with self._database.connection() as connection:
            async with connection.transaction():
                await lock_pool(connection, pool)
                rows = await (await connection.execute(_CLAIM, given)).fetchall()
            again = [row["id"] for row in rows if row["attempt"] > 1]
            events = await (await connection.execute(_FINISHED, (again, COMPLETED))).fetchall() if again else []
        claims = [await self._opened(row, [e["data"] for e in events if e["job"] == row["id"]]) for row in rows]
        return [claim for claim in claims if claim is not None]

    async def _opened(self, row: Mapping[str, Any], finished: Sequence[Mapping[str, Any]]) -> Claim | None:
        """None for a row that cannot be read, of an orchestrator with another key for one: the job ends as failed."""
        seal, job_id = self._store.seal, row["id"]
        try:
            steps = [seal.unwrap(data, job_id) for data in finished]
            return Claim(
                id=job_id,
                pipeline=row["pipeline"],
                way=row["way"],
                attempt=row["attempt"],
                request=seal.unwrap(row["request"], job_id),
                caller=caller_of(row),
                revoked=row["revoked"],
                finished={step["step"]: step["result"] for step in steps},
            )
        except (SoundstageError, LookupError, TypeError, ValueError) as exc:
            log.error("a job cannot be read", extra={"job": job_id, **where(exc)})
            error = exc if isinstance(exc, SoundstageError) else internal()
            await self._store.end(job_id, End("failed", None, error_record(error)))
            return None

    async def waiting(self) -> list[DictRow]:
        """What is queued: {pipeline, pool, jobs, oldest}, the last in seconds."""
        async with self._database.connection() as connection:
            return await (await connection.execute(_WAITING)).fetchall()

    async def give_back(self, executor: str) -> None:
        """Put back what this executor had at work: it stops."""
        async with self._database.connection() as connection:
            await requeue(connection, executor)
