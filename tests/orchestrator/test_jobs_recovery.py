"""What becomes of running jobs when the database goes away or the studio is upgraded; bench.pipelines.kill kills."""

import psycopg
import pytest

from core.db.pool import open_pool
from orchestrator.jobs.service import purge_once
from orchestrator.jobs.store import JobStore
from tests.fakes.studio import Studio
from tests.fakes.wait import eventually
from tests.orchestrator.test_database_away import away
from tests.orchestrator.test_jobs import ASKED, PATH, ended

pytestmark = pytest.mark.slow


async def test_the_database_goes_away_inside_a_step(
    postgres_server: str, durable_dsn: str, durable_studio: Studio
) -> None:
    await durable_studio.chat_worker()
    image = await durable_studio.image_worker(roles=["chat1to1"])
    image.held.clear()
    job_id = (await durable_studio.post(PATH, {**ASKED, "background": True})).json()["id"]
    await eventually(lambda: image.running)
    async with away(postgres_server, durable_dsn):
        image.held.set()
        await eventually(lambda: not image.running)
        refused = await durable_studio.post(PATH, {**ASKED, "background": True})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
    job = await ended(durable_studio, job_id)
    assert (job["state"], len(image.received)) == ("completed", 1)
    told = (await durable_studio.get(f"/v1/jobs/{job_id}/events")).json()["data"]
    assert [e["sequence_number"] for e in told] == list(range(1, 8))


OLDER = """
select dbos.enqueue_workflow(workflow_name => 'pipeline', queue_name => 'chat1to1', workflow_id => %s,
    app_version => '0', positional_args => array[to_json(%s::text)], queue_partition_key => 'default',
    application_name => 'soundstage')
"""
TOUCHED = """
insert into dbos.operation_outputs (workflow_uuid, function_id, function_name, output, serialization)
values (%s, 1, 'an_older_step', '{"result": 1}', 'portable_json')
"""


async def test_an_upgrade_begins_what_was_untouched_and_ends_what_was_not(
    durable_dsn: str, durable_studio: Studio
) -> None:
    await durable_studio.chat_worker()
    await durable_studio.image_worker()
    first = await durable_studio.post(PATH, ASKED)
    untouched, touched = "job_" + "a" * 24, "job_" + "b" * 24
    async with (
        await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True) as connection,
        connection.transaction(),
    ):
        for job_id in (untouched, touched):
            await connection.execute(
                "insert into jobs (id, pipeline, tenant, key_id, way, caller, request, request_sha256, deadline_at)"
                " select %s, pipeline, tenant, key_id, 'background', caller, request, request_sha256,"
                " now() + interval '1 hour' from jobs where id = %s",
                (job_id, first.headers["x-job-id"]),
            )
            await connection.execute(OLDER, (job_id, job_id))
        await connection.execute(TOUCHED, (touched,))
    assert (await ended(durable_studio, untouched))["state"] == "completed"
    failed = await ended(durable_studio, touched)
    assert (failed["state"], failed["error"]["code"]) == ("failed", "upgraded")


async def test_ended_jobs_are_purged_with_their_steps(durable_dsn: str, durable_studio: Studio) -> None:
    await durable_studio.chat_worker()
    await durable_studio.image_worker()
    job_id = (await durable_studio.post(PATH, ASKED)).headers["x-job-id"]
    async with open_pool(durable_dsn, size=2) as pool, pool.connection() as connection:

        async def kept() -> list[int]:
            tables = ("jobs where id", "job_events where job", "dbos.operation_outputs where workflow_uuid")
            found = []
            for table in tables:
                query = f"select count(*) as n from {table} = %s"  # noqa: S608 - constants
                row = await (await connection.execute(query.encode(), (job_id,))).fetchone()
                found.append(row["n"] if row else 0)
            return found

        assert all(await kept())
        assert await purge_once(JobStore(pool), 1) == 0
        assert await purge_once(JobStore(pool), 0) == 1
        assert not any(await kept())
    assert (await durable_studio.get(f"/v1/jobs/{job_id}")).json()["error"]["code"] == "job_not_found"
