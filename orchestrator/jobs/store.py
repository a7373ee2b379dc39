"""The table of jobs: one row for each run of a pipeline, whoever waits for it."""

from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Json, Jsonb

from core.db.pool import Pool, patiently
from core.errors import Conflict, NotFound, Overloaded, SoundstageError, Unavailable
from core.http import idempotency
from core.http.paging import unknown_after
from orchestrator.jobs.plain import kept_error, told_error
from orchestrator.jobs.values import Added, By, End, Queue, State, Taken, Wanted, kept_caller
from orchestrator.operate.seal import SEALED, Seal
from orchestrator.pipelines.flow import COMPLETED

EVENTS = 200  # read at once
FULL_SECONDS = 30.0

_SHOWN = (
    "id, pipeline, state, way, priority, request, answer, error, tokens, image_steps, attempts, events, webhook_state,"
    " created_at, started_at, ended_at"
)
_INSERT = """
insert into jobs (id, pipeline, tenant, key_id, way, priority, caller, request, request_sha256, idempotency_key,
                  webhook, webhook_state, followers, deadline_at, state, attempts, started_at, executor, version)
values (%(id)s, %(pipeline)s, %(tenant)s, %(key_id)s, %(way)s, %(priority)s, %(caller)s, %(request)s, %(sha256)s,
        %(idempotency_key)s, %(webhook)s, %(webhook_state)s, %(followers)s, now() + make_interval(secs => %(seconds)s),
        %(state)s, %(attempts)s, case when %(attempts)s > 0 then now() end, %(executor)s, %(version)s)
on conflict (key_id, idempotency_key) where idempotency_key is not null do nothing
"""
_OPEN = """
select (select count(*) from (
           select from jobs where tenant = %s and ended_at is null and way = 'background' limit %s) t) as of_tenant,
       (select count(*) from (
           select from jobs where pipeline = any(%s) and ended_at is null and way = 'background' limit %s) p) as of_pool
"""
_BEGIN = """
update jobs set state = 'running', attempts = attempts + 1, started_at = coalesce(started_at, now()),
                executor = %s, version = %s
 where id = %s and ended_at is null
returning id, pipeline, tenant, key_id, way, priority, caller, request, webhook, attempts,
          extract(epoch from deadline_at - now())::float8 as seconds_left,
          (select limits from api_keys k where k.id = key_id) as limits,
          (select limits from tenants t where t.id = tenant) as tenant_limits,
          (select revoked_at is not null or coalesce(expires_at < now(), false) from api_keys k where k.id = key_id)
              as revoked
"""
_FINISHED = "select data from job_events where job = %s and name = %s"
_LIST = "select {shown} from jobs where key_id = %(key)s{filters} order by created_at desc, id desc limit %(limit)s"


@asynccontextmanager
async def connected(pool: Pool) -> Any:
    """A connection. Raises Unavailable where the database is away."""
    try:
        async with pool.connection() as connection:
            yield connection
    except psycopg.OperationalError as exc:
        raise Unavailable("The database does not answer.", code="database_unavailable", retry_after=2) from exc


class JobStore:
    """Reads and writes jobs. Whose they are is checked by every read for a caller. Texts stand in the tables sealed:
    what was asked, what was answered, what each step gave, and the message of an error."""

    def __init__(self, pool: Pool, seal: Seal, queue_max: int = 5000) -> None:
        self._pool = pool
        self.seal = seal
        self._queue_max = queue_max

    async def add(self, job_id: str, wanted: Wanted, by: By, queue: Queue | None = None) -> Added:
        """Keep a new run, begun by a process; where there is a `queue` and it has no place left, queued there.

        Raises Conflict where its idempotency key was used for something else, Overloaded where the tenant has too many.
        """
        async with connected(self._pool) as connection:
            if queue is None or await self._has_place(connection, wanted.caller.key.tenant, queue):
                made = await self._insert(connection, job_id, wanted, by)
                begun = True
            else:
                begun = False
                async with connection.transaction():
                    made = await self._insert(connection, job_id, wanted, None)
                    if made:
                        await connection.execute(*queue.enqueue)
            if made:
                return Added(job_id, begun)
            if (first := await self._first(connection, wanted)) is None:
                message = "The run of this Idempotency-Key was just purged: send it again."
                raise Conflict(message, code="idempotency_purged")
            return Added(first, False)

    async def first(self, wanted: Wanted) -> str | None:
        """The run that came first with the same idempotency key. Raises Conflict where that was used for another."""
        async with connected(self._pool) as connection:
            return await self._first(connection, wanted)

    async def knows(self, key_id: str, idempotency_key: str) -> bool:
        """Whether an API key has a run under this idempotency key."""
        query = "select from jobs where key_id = %s and idempotency_key = %s"
        async with connected(self._pool) as connection:
            return bool((await connection.execute(query, (key_id, idempotency_key))).rowcount)

    async def _insert(self, connection: Any, job_id: str, wanted: Wanted, begun: By | None) -> bool:
        """Whether it is new, for its idempotency key."""
        row = {
            "state": "running" if begun else "queued",
            "attempts": 1 if begun else 0,
            "executor": begun and begun.executor,
            "version": begun and begun.version,
            "id": job_id,
            "pipeline": wanted.pipeline,
            "tenant": wanted.caller.key.tenant,
            "key_id": wanted.caller.key.id,
            "way": wanted.way,
            "priority": wanted.priority,
            "caller": Jsonb(kept_caller(wanted.caller)),
            "request": Jsonb(self.seal.wrap(wanted.request, job_id)),
            "sha256": wanted.request_sha256,
            "idempotency_key": wanted.idempotency_key,
            "webhook": wanted.webhook,
            "webhook_state": "waiting" if wanted.webhook else None,
            "followers": int(wanted.way == "stream"),
            "seconds": wanted.seconds,
        }
        return bool((await connection.execute(_INSERT, row)).rowcount)

    async def _first(self, connection: Any, wanted: Wanted) -> str | None:
        query = "select id, request_sha256 from jobs where key_id = %s and idempotency_key = %s"
        given = (wanted.caller.key.id, wanted.idempotency_key)
        found = await (await connection.execute(query, given)).fetchone()
        if found is None:
            return None
        if found["request_sha256"] != wanted.request_sha256:
            raise idempotency.reused()
        return str(found["id"])

    async def _has_place(self, connection: Any, tenant: str, queue: Queue) -> bool:
        """Whether fewer of a pool's background jobs are open than it has places: then none of them waits.

        Raises Overloaded where the tenant has as many background jobs as it may.
        """
        given = (tenant, self._queue_max, list(queue.pipelines), queue.places)
        row = await (await connection.execute(_OPEN, given)).fetchone()
        if row["of_tenant"] >= self._queue_max:
            message = f"There are {self._queue_max} jobs of yours that have not ended."
            raise Overloaded(message, code="jobs_full", retry_after=FULL_SECONDS)
        return bool(row["of_pool"] < queue.places)

    async def begin(self, job_id: str, by: By) -> Taken | None:
        """Note who runs it now; None where it has ended, or was purged. What an earlier attempt still does is not kept
        from here on."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(_BEGIN, (*by, job_id))).fetchone()
            if row is None:
                return None
            told = await (await connection.execute(_FINISHED, (job_id, COMPLETED))).fetchall()
        try:
            row["request"] = self.seal.unwrap(row["request"], job_id)
            steps = [self.seal.unwrap(one["data"], job_id) for one in told]
        except SoundstageError as exc:  # of an orchestrator with another key
            await self.end(job_id, End("failed", None, kept_error(exc)))
            return None
        return Taken(**row, finished={step["step"]: step["result"] for step in steps})

    async def end(self, job_id: str, how: End) -> bool:
        """End a run before its time; whether it had not ended before. One that comes to its end tells so itself."""
        name, data = how.event
        kept, event = sealed_end(self.seal, job_id, how.kept), Json(self.seal.wrap(data, job_id))
        answer = Json(kept["answer"]) if "answer" in kept else None
        error = Jsonb(kept["error"]) if "error" in kept else None
        given = (job_id, how.state, answer, error, name, event, how.tokens, how.image_steps)
        async with self._pool.connection() as connection:
            query = "select end_job(%s, %s, %s::json, %s::jsonb, %s, %s::json, %s, %s) as ended"
            row = await (await connection.execute(query, given)).fetchone()
        return bool(row and row["ended"])

    async def one(self, job_id: str, key_id: str | None) -> dict[str, Any]:
        """As a caller sees it; `key_id` None: an admin's look. Raises NotFound where it is not the key's."""
        query = f"select {_SHOWN} from jobs where id = %s and (key_id = %s or %s)"  # noqa: S608 - a constant
        async with connected(self._pool) as connection:
            row = await (await connection.execute(query, (job_id, key_id, key_id is None))).fetchone()
        if row is None:
            raise NotFound("There is no such job.", code="job_not_found")
        return self._opened(row)

    async def listed(
        self, key_id: str, *, state: State | None, pipeline: str | None, after: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """The newest first, without their answers; `after` is the last id of the page before. Raises InvalidRequest
        where that is no job of this key's."""
        filters = " and state = %(state)s" if state else ""
        filters += " and pipeline = %(pipeline)s" if pipeline else ""
        if after:
            filters += " and (created_at, id) < (select created_at, id from jobs where id = %(after)s)"
        query = _LIST.format(shown=_SHOWN.replace(" request, answer,", ""), filters=filters)
        given = {"key": key_id, "state": state, "pipeline": pipeline, "after": after, "limit": limit}
        known = "select from jobs where id = %(after)s and key_id = %(key)s"
        async with connected(self._pool) as connection:
            if after is not None and not (await connection.execute(known, given)).rowcount:
                raise unknown_after(after)
            rows = await (await connection.execute(query.encode(), given)).fetchall()
        return [self._opened(row) for row in rows]

    def _opened(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with its texts."""
        texts = {name: self.seal.unwrap(row[name], row["id"]) for name in ("request", "answer") if name in row}
        return {**row, **texts, "error": opened_error(self.seal, row["id"], row["error"])}

    async def events(self, job_id: str, after: int) -> list[dict[str, Any]]:
        """The next events after that number, at most `EVENTS`: {number, name, data, at}."""
        query = "select number, name, data, at from job_events where job = %s and number > %s order by number limit %s"
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(query, (job_id, after, EVENTS))).fetchall()
        return [{**row, "data": self.seal.unwrap(row["data"], job_id)} for row in rows]

    async def old(self, days: float, most: int) -> list[str]:
        """Ids of runs that ended longer ago."""
        query = "select id from jobs where ended_at < now() - %s * interval '1 day' order by ended_at limit %s"
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(query, (days, most))).fetchall()
        return [row["id"] for row in rows]

    async def forget(self, job_ids: Sequence[str]) -> None:
        """Let go of runs, with their texts and events."""
        async with patiently(self._pool) as connection:
            await connection.execute("delete from jobs where id = any(%s)", (list(job_ids),))

    async def followed(self, job_id: str, more: int) -> None:
        """Somebody began (1) or ceased (-1) to follow a run."""
        query = "update jobs set followers = greatest(0, followers + %s) where id = %s and ended_at is null"
        async with connected(self._pool) as connection:
            await connection.execute(query, (more, job_id))

    async def deserted(self, job_id: str) -> bool:
        """Whether it was a stream that nobody follows any more, and that no key lets anyone ask for again."""
        query = (
            "select from jobs where id = %s and way = 'stream' and idempotency_key is null and followers = 0"
            " and ended_at is null"
        )
        async with self._pool.connection() as connection:
            return (await connection.execute(query, (job_id,))).rowcount > 0

    async def cancelled_of(self, job_ids: Sequence[str]) -> set[str]:
        """Those of these that have ended otherwise than by their own run."""
        query = "select id from jobs where id = any(%s) and state = 'cancelled'"
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(query, (list(job_ids),))).fetchall()
        return {row["id"] for row in rows}


def sealed_end(seal: Seal, job_id: str, kept: Mapping[str, Any]) -> dict[str, Any]:
    """How a run ended, as it is kept: its answer sealed, and what its error says."""
    found = dict(kept)
    if "answer" in found:
        found["answer"] = seal.wrap(found["answer"], job_id)
    if "error" in found:
        error = dict(found["error"])
        found["error"] = {**seal.wrap(error.pop("message", ""), job_id), **error}
    return found


def opened_error(seal: Seal, job_id: str, error: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The error again; one that the version before kept is as it was."""
    if error is None or SEALED not in error:
        return None if error is None else dict(error)
    rest = {name: value for name, value in error.items() if name != SEALED}
    return {**rest, "message": seal.unwrap({SEALED: error[SEALED]}, job_id)}


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A job as the API gives it."""
    made = {name: _time(row[name]) for name in ("created_at", "started_at", "ended_at")}
    given = {name: row[name] for name in ("id", "pipeline", "state", "way", "priority", "attempts", "webhook_state")}
    last = {"last_event": row["events"], "cost": {"tokens": row["tokens"], "image_steps": row["image_steps"]}}
    error = None if row["error"] is None else told_error(row["error"])
    whole = {"result": row["answer"]} if "answer" in row else {}
    return {"object": "job", **given, **made, **last, "error": error, **whole}


def _time(at: datetime | None) -> int | None:
    """Seconds since the epoch, as OpenAI gives times."""
    return None if at is None else int(at.timestamp())
