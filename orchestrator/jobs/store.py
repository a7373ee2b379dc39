"""The table of jobs: one row for each run of a pipeline, whoever waits for it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.types.json import Json, Jsonb

from core.db.plain import error_of_caller
from core.db.pool import Pool, patiently
from core.errors import Conflict, NotFound, Overloaded
from core.http import idempotency
from core.http.paging import unknown_after
from orchestrator.jobs.caller_record import caller_record
from orchestrator.jobs.locks import lock_pool
from orchestrator.jobs.values import VERSION, End, RunRequest, State, new_job_id
from orchestrator.operate.seal import SEALED, Seal

EVENTS = 200  # read at once
FULL_SECONDS = 30.0

_SHOWN = (
    "id, pipeline, state, way, priority, request, answer, error, tokens, image_steps, attempts, events, webhook_state,"
    " created_at, started_at, ended_at"
)
_COLUMNS = (
    "id, pipeline, tenant, key_id, way, pool, priority, caller, request, request_sha256, idempotency_key, webhook,"
    " webhook_state, followers, state, attempts, executor, version"
)
_INSERT = f"""
with made as (
    insert into jobs ({_COLUMNS}, deadline_at, started_at)
    values ({", ".join(f"%({name})s" for name in _COLUMNS.split(", "))}, now() + make_interval(secs => %(seconds)s),
            case when %(attempts)s > 0 then clock_timestamp() end)
    on conflict (key_id, idempotency_key) where idempotency_key is not null do nothing
    returning state, pool)
select case when state = 'queued' then pg_notify('soundstage_jobs', 'queued ' || pool) end from made
"""  # noqa: S608 - constants
_OF_TENANT = """
select count(*) as jobs from (
    select from jobs where tenant = %(name)s and ended_at is null and way = 'background' limit %(most)s) open
"""
_OF_POOL = """
select count(*) as jobs from (
    select from jobs where pool = %(name)s and state = 'queued' union all
    select from jobs where pool = %(name)s and state = 'running' limit %(most)s) open
"""
_LIST = "select {shown} from jobs where key_id = %(key)s{filters} order by created_at desc, id desc limit %(limit)s"


class NewJob(NamedTuple):
    """The run that is kept: another, where its idempotency key was used before; and whether it begins here and now."""

    id: str
    begins: bool


class JobStore:
    """Reads and writes jobs. Whose they are is checked by every read for a caller. Texts stand in the tables sealed:
    what was asked, what was answered, what each step gave, and the message of an error."""

    def __init__(self, pool: Pool, seal: Seal, queue_max: int = 5000) -> None:
        self._pool = pool
        self.seal = seal
        self._queue_max = queue_max

    async def begin(self, request: RunRequest, executor: str) -> NewJob:
        """Keep a new run that `executor` carries out. Raises Conflict where its idempotency key was used for something
        else."""
        async with self._pool.connection() as connection:
            return await self._add(connection, request, executor)

    async def enqueue(self, request: RunRequest, executor: str, places: int) -> NewJob:
        """The same for a background job: where its pool has no place left, of so many, it is queued.

        Raises Overloaded where the tenant has too many.
        """
        async with self._pool.connection() as connection:
            if await _count(connection, _OF_TENANT, request.caller.key.tenant, self._queue_max) >= self._queue_max:
                if request.idempotency_key and (first := await self._first(connection, request)) is not None:
                    return NewJob(first, False)
                message = f"There are {self._queue_max} jobs of yours that have not ended."
                raise Overloaded(message, code="jobs_full", retry_after=FULL_SECONDS)
            if await _count(connection, _OF_POOL, request.pool, places) >= places:
                return await self._add(connection, request, None)
            async with connection.transaction():
                await lock_pool(connection, request.pool)
                begins = await _count(connection, _OF_POOL, request.pool, places) < places
                return await self._add(connection, request, executor if begins else None)

    async def _add(self, connection: Any, request: RunRequest, executor: str | None) -> NewJob:
        job_id = new_job_id()
        if (await connection.execute(_INSERT, self._row(job_id, request, executor))).rowcount:
            return NewJob(job_id, executor is not None)
        if (first := await self._first(connection, request)) is None:
            message = "The run of this Idempotency-Key was just purged: send it again."
            raise Conflict(message, code="idempotency_purged")
        return NewJob(first, False)

    def _row(self, job_id: str, request: RunRequest, executor: str | None) -> dict[str, Any]:
        return {
            "id": job_id,
            "pipeline": request.pipeline,
            "tenant": request.caller.key.tenant,
            "key_id": request.caller.key.id,
            "way": request.way,
            "pool": request.pool,
            "priority": request.priority,
            "caller": Jsonb(caller_record(request.caller)),
            "request": Jsonb(self.seal.wrap(request.request, job_id)),
            "request_sha256": request.request_sha256,
            "idempotency_key": request.idempotency_key,
            "webhook": request.webhook,
            "webhook_state": "waiting" if request.webhook else None,
            "followers": int(request.way == "stream"),
            "seconds": request.seconds,
            "state": "running" if executor else "queued",
            "attempts": int(executor is not None),
            "executor": executor,
            "version": VERSION,
        }

    async def first(self, request: RunRequest) -> str | None:
        """The run that came first with the same idempotency key. Raises Conflict where that was used for another."""
        async with self._pool.connection() as connection:
            return await self._first(connection, request)

    async def _first(self, connection: Any, request: RunRequest) -> str | None:
        query = "select id, request_sha256 from jobs where key_id = %s and idempotency_key = %s"
        given = (request.caller.key.id, request.idempotency_key)
        row = await (await connection.execute(query, given)).fetchone()
        if row is None:
            return None
        if row["request_sha256"] != request.request_sha256:
            raise idempotency.reused()
        return str(row["id"])

    async def knows(self, key_id: str, idempotency_key: str) -> bool:
        """Whether an API key has a run under this idempotency key."""
        query = "select from jobs where key_id = %s and idempotency_key = %s"
        async with self._pool.connection() as connection:
            return bool((await connection.execute(query, (key_id, idempotency_key))).rowcount)

    async def end(self, job_id: str, how: End) -> bool:
        """End a run before its time; whether it had not ended before. One that comes to its end tells so itself."""
        name, data = how.event
        record, event = sealed_end(self.seal, job_id, how.record), Json(self.seal.wrap(data, job_id))
        answer = Json(record["answer"]) if "answer" in record else None
        error = Jsonb(record["error"]) if "error" in record else None
        given = (job_id, how.state, answer, error, name, event, how.tokens, how.image_steps)
        async with self._pool.connection() as connection:
            query = "select end_job(%s, %s, %s::json, %s::jsonb, %s, %s::json, %s, %s) as ended"
            row = await (await connection.execute(query, given)).fetchone()
        return bool(row and row["ended"])

    async def one(self, job_id: str, key_id: str | None) -> dict[str, Any]:
        """As a caller sees it; `key_id` None: an admin's look. Raises NotFound where it is not the key's."""
        query = f"select {_SHOWN} from jobs where id = %s and (key_id = %s or %s)"  # noqa: S608 - a constant
        async with self._pool.connection() as connection:
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
        async with self._pool.connection() as connection:
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

    async def purge(self, days: float, most: int) -> int:
        """Let go of runs that ended longer ago, with their texts and events; how many, at most `most`."""
        query = (
            "delete from jobs where id in (select id from jobs where ended_at < now() - %s * interval '1 day'"
            " order by ended_at limit %s)"
        )
        async with patiently(self._pool) as connection:
            return (await connection.execute(query, (days, most))).rowcount

    async def count_follower(self, job_id: str, more: int) -> None:
        """Somebody began (1) or ceased (-1) to follow a run."""
        query = "update jobs set followers = greatest(0, followers + %s) where id = %s and ended_at is null"
        async with self._pool.connection() as connection:
            await connection.execute(query, (more, job_id))

    async def is_deserted(self, job_id: str) -> bool:
        """Whether it is a stream that nobody follows any more, and that no key lets anyone ask for again."""
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


async def _count(connection: Any, query: str, name: str, most: int) -> int:
    """Open jobs of a tenant or a pool, counted up to so many."""
    return int((await (await connection.execute(query, {"name": name, "most": most})).fetchone())["jobs"])


def sealed_end(seal: Seal, job_id: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """How a run ended, as it is kept: its answer sealed, and what its error says."""
    sealed = dict(record)
    if "answer" in sealed:
        sealed["answer"] = seal.wrap(sealed["answer"], job_id)
    if "error" in sealed:
        error = dict(sealed["error"])
        sealed["error"] = {**seal.wrap(error.pop("message", ""), job_id), **error}
    return sealed


def opened_error(seal: Seal, job_id: str, error: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The error again; one that the version before kept is as it was."""
    if error is None or SEALED not in error:
        return None if error is None else dict(error)
    rest = {name: value for name, value in error.items() if name != SEALED}
    return {**rest, "message": seal.unwrap({SEALED: error[SEALED]}, job_id)}


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A job as the API gives it."""
    times = {name: _time(row[name]) for name in ("created_at", "started_at", "ended_at")}
    own = {name: row[name] for name in ("id", "pipeline", "state", "way", "priority", "attempts", "webhook_state")}
    last = {"last_event": row["events"], "cost": {"tokens": row["tokens"], "image_steps": row["image_steps"]}}
    error = None if row["error"] is None else error_of_caller(row["error"])
    whole = {"result": row["answer"]} if "answer" in row else {}
    status = "in_progress" if row["state"] == "running" else row["state"]  # OpenAI's word; `state` is the older name
    return {"object": "job", "status": status, **own, **times, **last, "error": error, **whole}


def _time(at: datetime | None) -> int | None:
    """Seconds since the epoch, as OpenAI gives times."""
    return None if at is None else int(at.timestamp())
