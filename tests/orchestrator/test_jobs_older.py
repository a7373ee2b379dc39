"""A database of the program before this one, which kept its queue in the schema `dbos`: no job is lost or done twice,
also while an orchestrator of that program lives."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Json, Jsonb

from orchestrator.jobs.locks import lock_key
from orchestrator.jobs.values import VERSION
from orchestrator.pipelines.flow import COMPLETED, STARTED
from tests.fakes.studio import Studio
from tests.fakes.wait import answers, eventually
from tests.fakes.workers import ImageWorker
from tests.orchestrator.test_jobs import ASKED, PATH, ended

_SCHEMA = """
create schema dbos;
create table dbos.workflow_status (
    workflow_uuid text primary key, status text, name text, queue_name text, executor_id text,
    application_version text)
"""
_JOB = """
insert into jobs (id, pipeline, tenant, key_id, way, caller, request, request_sha256, deadline_at, state, attempts,
                  started_at, executor, version)
select %(id)s, pipeline, tenant, key_id, %(way)s, caller, %(request)s, request_sha256, now() + interval '1 hour',
       %(state)s, %(attempts)s, case when %(attempts)s > 0 then now() end, %(executor)s, %(version)s
  from jobs where id = %(like)s
"""
_WORKFLOW = "insert into dbos.workflow_status values (%s, %s, 'pipeline', 'chat1to1', %s, %s)"

Connection = psycopg.AsyncConnection[dict[str, Any]]


@pytest.fixture
async def image(durable_studio: Studio) -> ImageWorker:
    await durable_studio.chat_worker()
    return await durable_studio.image_worker(roles=["chat1to1"])


class Older:
    """The database as an orchestrator of the older program sees it."""

    def __init__(self, connection: Connection, like: str) -> None:
        self.connection = connection
        self._like = like
        self._number = 0

    async def job(
        self, status: str | None, executor: str | None = None, *, begun: bool = False, way: str = "background"
    ) -> str:
        """Add one in the state of its workflow, in one transaction as that program does. None: it has no workflow."""
        self._number += 1
        job_id = f"job_{self._number:024x}"
        given = {"id": job_id, "like": self._like, "way": way, "request": Jsonb(ASKED), "attempts": int(begun)}
        given |= {"state": "running", "executor": executor, "version": VERSION} if begun else {}
        given = {"state": "queued", "executor": None, "version": None, **given}
        async with self.connection.transaction():
            await self.connection.execute(_JOB, given)
            if status is not None:
                await self.connection.execute(_WORKFLOW, (job_id, status, executor, VERSION))
        return job_id

    async def begin(self, job_id: str, executor: str) -> None:
        """As that program's workflow begins: whatever has happened to the job."""
        query = "update jobs set state = 'running', attempts = attempts + 1, executor = %s, version = %s where id = %s"
        await self.connection.execute(query, (executor, VERSION, job_id))

    async def keep(self, job_id: str, attempt: int, *events: tuple[str, str, dict[str, Any]], **more: Any) -> list[Any]:
        rows = [{"job": job_id, "attempt": attempt, "key": k, "name": n, "data": d, **more} for k, n, d in events]
        found = await self.connection.execute("select keep_events(%s::json) as numbers", (Json(rows),))
        return list((await found.fetchall())[0]["numbers"])

    async def statuses(self) -> dict[str, str]:
        rows = await self.connection.execute("select workflow_uuid, status from dbos.workflow_status")
        return {row["workflow_uuid"]: row["status"] for row in await rows.fetchall()}


@pytest.fixture
async def older(durable_dsn: str, durable_studio: Studio, image: ImageWorker) -> AsyncIterator[Older]:
    like = (await durable_studio.post(PATH, ASKED)).headers["x-job-id"]
    image.headers.clear()
    async with await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True, row_factory=dict_row) as connection:
        await connection.execute(_SCHEMA)
        yield Older(connection, like)


def drawn(image: ImageWorker) -> Counter[str]:
    return Counter(headers["idempotency-key"].partition(":")[0] for headers in image.headers)


async def test_what_was_queued_and_what_the_dead_left_is_carried_out_once(
    durable_studio: Studio, image: ImageWorker, older: Older
) -> None:
    jobs = {
        "queued": await older.job("ENQUEUED"),
        "without a workflow": await older.job(None),
        "given to the dead": await older.job("PENDING", "gone"),
        "begun by the dead": await older.job("PENDING", "gone", begun=True),
        "somebody waited for it": await older.job(None, "gone", begun=True, way="wait"),
        "put back by another of them": await older.job("ENQUEUED", "gone", begun=True, way="stream"),
    }
    for what, job_id in jobs.items():
        job = await ended(durable_studio, job_id)
        again = what in ("begun by the dead", "somebody waited for it", "put back by another of them")
        assert (job["state"], job["attempts"]) == ("completed", 2 if again else 1), what
    assert drawn(image) == dict.fromkeys(jobs.values(), 1)
    assert set((await older.statuses()).values()) == {"CANCELLED"}, "the older program can begin none of them"


async def test_a_step_that_the_older_program_finished_is_not_done_again(
    durable_studio: Studio, image: ImageWorker, older: Older, durable_dsn: str
) -> None:
    page = (await durable_studio.get("/v1/jobs?limit=1")).json()["data"][0]["id"]
    result = (await durable_studio.get(f"/v1/jobs/{page}/events")).json()["data"][1]["result"]
    async with await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True) as alive:
        await alive.execute("select pg_advisory_lock(%s)", (lock_key("executor", "alive"),))
        job_id = await older.job("PENDING", "alive", begun=True)
        started = (f"expand/{STARTED}", STARTED, {"step": "expand"})
        finished = (f"expand/{COMPLETED}", COMPLETED, {"step": "expand", "result": {**result, "prompt": "a pear"}})
        assert await older.keep(job_id, 1, started, finished) == [1, 2]
    job = await ended(durable_studio, job_id)
    assert (job["state"], job["attempts"], job["result"]["prompt_used"]) == ("completed", 2, "a pear")
    events = (await durable_studio.get(f"/v1/jobs/{job_id}/events")).json()["data"]
    assert [event["sequence_number"] for event in events] == list(range(1, 8))


async def test_what_a_living_one_has_is_left_to_it(
    durable_studio: Studio, image: ImageWorker, older: Older, durable_dsn: str
) -> None:
    async with await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True) as alive:
        await alive.execute("select pg_advisory_lock(%s)", (lock_key("executor", "alive"),))
        running = await older.job("PENDING", "alive", begun=True)
        pending = await older.job("PENDING", "alive")
        queued = await older.job("ENQUEUED")
        assert (await ended(durable_studio, queued))["state"] == "completed"
        assert drawn(image) == {queued: 1}
        assert await older.statuses() == {running: "PENDING", pending: "PENDING", queued: "CANCELLED"}
        end = {"state": "completed", "answer": {"by": "the older one"}, "tokens": 1, "image_steps": 1}
        assert await older.keep(running, 1, ("end", "pipeline.completed", {}), end=end) == [1]
        await older.begin(pending, "alive")
    job = await ended(durable_studio, running)
    assert (job["state"], job["attempts"], job["result"]) == ("completed", 1, {"by": "the older one"})
    over = await ended(durable_studio, pending)
    assert (over["state"], over["attempts"]) == ("completed", 2)
    assert drawn(image) == {queued: 1, pending: 1}


async def test_of_two_who_begin_one_the_later_alone_keeps_what_it_does(
    durable_studio: Studio, image: ImageWorker, older: Older, durable_dsn: str
) -> None:
    image.held.clear()
    job_id = await older.job("ENQUEUED")
    await eventually(lambda: image.running)
    async with await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True) as alive:
        await alive.execute("select pg_advisory_lock(%s)", (lock_key("executor", "alive"),))
        await older.begin(job_id, "alive")
        image.held.set()

        async def let_go() -> bool:
            metrics = (await durable_studio.http.get("/metrics")).text
            return "soundstage_pipelines_running 0.0" in metrics

        await answers(let_go, "the run that is another's now goes no further")
        end = {"state": "completed", "answer": {"by": "the older one"}, "tokens": 1, "image_steps": 1}
        numbers = await older.keep(job_id, 2, ("end", "pipeline.completed", {}), end=end)
    job = await ended(durable_studio, job_id)
    events = (await durable_studio.get(f"/v1/jobs/{job_id}/events")).json()["data"]
    assert (job["attempts"], job["result"]) == (2, {"by": "the older one"})
    assert numbers == [len(events)]
    assert "caption" not in {event.get("step") for event in events}
