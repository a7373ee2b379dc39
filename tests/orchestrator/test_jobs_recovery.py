"""What becomes of running jobs when an orchestrator dies, the database goes away, or the studio is upgraded."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from core.db.pool import open_pool
from core.serving import bind
from llm import fake_engine
from orchestrator.jobs.service import purge_once
from orchestrator.jobs.store import JobStore
from tests.fakes.image_worker import ImageWorker
from tests.fakes.serving import serving
from tests.fakes.studio import ChatWorker, Studio
from tests.fakes.wait import answers, eventually, soon
from tests.orchestrator.test_database_away import away
from tests.orchestrator.test_jobs import ASKED, PATH, STEPS, ended, events_of

pytestmark = pytest.mark.slow


class Orchestrator:
    """`python -m orchestrator` as a process of its own, which can be killed."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, folder: Path) -> None:
        key = (folder / "keys" / "local_api_key").read_text().strip()
        self._process = process
        self.http = _client(url, key)

    async def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        await soon(self._process.wait())
        await self.http.aclose()


def _client(url: str, key: str = "") -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False, verify=False)


async def started(dsn: str, folder: Path, chat: str, image: str) -> Orchestrator:
    """One that knows its workers."""
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    given = {
        **{"DATABASE_URL": dsn, "DATA_DIR": str(folder), "PORT": str(port), "LOG_LEVEL": "error"},
        **{"LLM_URL": chat, "INTERFACE_CHAT1TO1_WORKER_URLS": image, "JOBS_GRACE_SECONDS": "0.4"},
        "READY_NEEDS": "chat,image",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "orchestrator", env={**os.environ, **given})
    url = f"http://127.0.0.1:{port}"
    async with _client(url) as http:

        async def ready() -> bool:
            assert process.returncode is None, "it ended by itself"
            with contextlib.suppress(httpx2.TransportError):
                return (await http.get("/readyz")).status_code == 200
            return False

        await answers(ready, "the orchestrator's start")
    return Orchestrator(process, url, folder)


@asynccontextmanager
async def fakes() -> AsyncIterator[tuple[ChatWorker, ImageWorker, str, str]]:
    image = ImageWorker()
    async with serving(fake_engine.create_app(["small"], None)) as chat_port, serving(image.app()) as image_port:
        url = f"http://127.0.0.1:{chat_port}"
        chat = ChatWorker(url)
        yield chat, image, url, f"http://127.0.0.1:{image_port}"
        await chat.http.aclose()


async def page(http: httpx2.AsyncClient, job_id: str) -> list[tuple[int, str, dict[str, Any]]]:
    """The events that are there."""
    found = (await http.get(f"/v1/jobs/{job_id}/events")).json()["data"]
    return [(e["sequence_number"], e["type"], e) for e in found]


async def held_in(step: str, chat: ChatWorker, image: ImageWorker, http: httpx2.AsyncClient) -> str:
    """A job whose run does not come out of this step."""

    async def chatting() -> bool:
        return bool((await chat.state())["running"])

    await chat.behave(token_seconds=60.0 if step == "expand" else 0.0)
    image.held.clear()
    made = await http.post(PATH, json={**ASKED, "background": True})
    assert made.status_code == 202, made.text
    if step != "expand":
        await eventually(lambda: image.running, "the picture")
    if step == "caption":
        await chat.behave(token_seconds=60.0)
        image.held.set()
    if step != "generate":
        await answers(chatting, step)
    return str(made.json()["id"])


ONCE = [(f"pipeline.step.{what}", step) for step in STEPS for what in ("started", "completed")]
ASKS = {"expand": (3, 1), "generate": (2, 2), "caption": (3, 1)}
"""Step that is killed -> requests that the chat and the image engine see: the step itself twice, the others once."""


async def test_kill_minus_nine_inside_every_step(durable_dsn: str, tmp_path: Path) -> None:
    async with fakes() as (chat, image, chat_url, image_url):
        running = await started(durable_dsn, tmp_path, chat_url, image_url)
        for step, asks in ASKS.items():
            drawn = len(image.headers)
            job_id = await held_in(step, chat, image, running.http)
            seen = await page(running.http, job_id)
            await running.kill()
            await chat.behave(token_seconds=0.0)
            image.held.set()
            running = await started(durable_dsn, tmp_path, chat_url, image_url)
            headers = {"accept": "text/event-stream", "last-event-id": str(seen[-1][0])}
            told = seen + events_of((await running.http.get(f"/v1/jobs/{job_id}/events", headers=headers)).text)
            assert [number for number, _, _ in told] == list(range(1, len(told) + 1)), "gapless"
            assert [(name, data.get("step")) for _, name, data in told] == [*ONCE, ("pipeline.completed", None)], step
            job = (await running.http.get(f"/v1/jobs/{job_id}")).json()
            assert (job["state"], job["attempts"], job["result"]["model"]) == ("completed", 2, "tiny-image"), step
            keys = [call["headers"].get("idempotency-key", "") for call in await chat.received()]
            chats = [key for key in keys if key.startswith(job_id)]  # the others only find out what the engine can do
            assert (len(chats), len(image.headers) - drawn) == asks, step
            assert {sent["idempotency-key"] for sent in image.headers[drawn:]} == {f"{job_id}:generate"}
        await running.kill()


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
