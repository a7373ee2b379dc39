"""What becomes of running jobs when an orchestrator dies or stops, the database goes away, or the studio is upgraded;
bench.pipelines.kill does it at random."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from psycopg.types.json import Jsonb

from core.db.pool import open_pool
from core.http.serving import bind
from orchestrator.jobs.locks import lock_key
from orchestrator.jobs.store import JobStore
from orchestrator.jobs.values import VERSION
from orchestrator.operate.seal import Seal
from orchestrator.pipelines import PIPELINES
from tests.fakes.client import connected, request
from tests.fakes.serving import serving
from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import answers, eventually, soon
from tests.fakes.workers import GatedEngines, ImageWorker
from tests.orchestrator.test_database_away import away
from tests.orchestrator.test_jobs import ASKED, PATH, STEPS, ended, events_of

pytestmark = pytest.mark.slow


class Killed:
    """`python -m orchestrator` over these engines, as a process that can be killed."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, key: str) -> None:
        self.process, self.port = process, port
        headers = {"authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{port}"
        self.http = httpx2.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False, verify=False)

    async def kill(self) -> None:
        self.process.kill()
        await soon(self.process.wait())


@asynccontextmanager
async def mortal(dsn: str, folder: Path, engines: str) -> AsyncIterator[Killed]:
    """One that knows its engines. However busy the machine is: a new process imports for seconds."""
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    given = {
        **{"DATABASE_URL": dsn, "DATA_DIR": str(folder), "PORT": str(port), "LOG_LEVEL": "error"},
        **{"LLM_URL": engines, "INTERFACE_CHAT1TO1_WORKER_URLS": f"{engines}/draw", "READY_NEEDS": "chat,image"},
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "orchestrator", env={**os.environ, **given})
    keys = folder / "keys" / "local_api_key"
    try:
        async with asyncio.timeout(120), httpx2.AsyncClient(trust_env=False, verify=False) as http:
            while True:
                assert process.returncode is None, "it ended by itself"
                with contextlib.suppress(httpx2.TransportError):
                    if (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.05)
        killed = Killed(process, port, keys.read_text().strip())
        async with killed.http:
            yield killed
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def following(studio: Killed, job_id: str) -> "asyncio.Task[str]":
    """A client on a job's stream, which has begun; what it had when the connection broke."""
    answered = asyncio.Event()

    async def follow() -> str:
        body = b""
        async with connected(studio.port) as client:
            headers = [(b"authorization", studio.http.headers["authorization"].encode())]
            headers += [(b"accept", b"text/event-stream")]
            await client.send(request(b"GET", f"/v1/jobs/{job_id}/events".encode(), headers))
            await client.head()
            answered.set()
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while piece := await client.chunk():
                    body += piece
        return body.decode()

    task = asyncio.create_task(follow())
    await soon(answered.wait())
    return task


async def test_kill_minus_nine_inside_every_step(durable_dsn: str, tmp_path: Path) -> None:
    """One run in each step, one between two orchestrators' lives: none of what was finished is done again."""
    engines, jobs = GatedEngines(*STEPS), {}
    async with serving(engines.app()) as port, mortal(durable_dsn, tmp_path, f"http://127.0.0.1:{port}") as killed:
        for step in reversed(STEPS):  # the first run comes as far as the last step
            engines.open(*STEPS[: STEPS.index(step)])
            made = await killed.http.post(PATH, json={**ASKED, "background": True})
            job_id = jobs[step] = made.json()["id"]
            inside = f"{job_id}:{step}" + (":1" if step == "caption" else "")
            await eventually(partial(engines.begun.__getitem__, inside), step)
        followed = {step: await following(killed, job_id) for step, job_id in jobs.items()}

        async def told() -> bool:
            pages = [(await killed.http.get(f"/v1/jobs/{job_id}/events")).json() for job_id in jobs.values()]
            return [page["last"] for page in pages] == [5, 3, 1]

        await answers(told, "the events")
        await killed.kill()
        engines.open(*STEPS)
        url = f"http://127.0.0.1:{port}"
        given: dict[str, Any] = {
            "llm_url": url,
            "interface_chat1to1_worker_urls": (f"{url}/draw",),
            "jobs_grace_seconds": 0.2,
        }
        async with studio_over(durable_dsn, tmp_path, durable_jobs=True, **given) as studio:
            for step, job_id in jobs.items():
                job = await ended(studio, job_id)
                assert (job["state"], job["attempts"], job["result"]["caption"]) == ("completed", 2, engines.caption), (
                    step
                )
                seen = events_of(await soon(followed[step]))
                headers = {"authorization": f"Bearer {studio.key}", "accept": "text/event-stream"}
                headers["last-event-id"] = str(len(seen))
                seen += events_of((await studio.http.get(f"/v1/jobs/{job_id}/events", headers=headers)).text)
                assert [number for number, _, _ in seen] == list(range(1, 8)), step
                once = [(f"pipeline.step.{what}", name) for name in STEPS for what in ("started", "completed")]
                assert [(name, data.get("step")) for _, name, data in seen[:-1]] == once
                assert seen[-1][1] == "pipeline.completed"
                keys = {key.split(":")[1]: count for key, count in engines.begun.items() if key.startswith(job_id)}
                assert keys == {name: 2 if name == step else 1 for name in STEPS}, step


async def test_a_restart_lets_the_worker_draw_on_and_comes_back_to_it(durable_dsn: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"durable_jobs": True, "jobs_grace_seconds": 0.2, "lease_seconds": 600}
    has, other = ImageWorker(), ImageWorker()
    has.held.clear()
    async with serving(has.app()) as one, serving(other.app()) as two:
        models = [{"id": has.model, "abilities": ["images"]}]
        async with studio_over(durable_dsn, tmp_path, **given) as studio:
            await studio.chat_worker()
            url = f"http://127.0.0.1:{one}"
            await studio.register("image-2", url, kind="image", models=models)
            job_id = (await studio.post(PATH, {**ASKED, "background": True})).json()["id"]
            await eventually(lambda: has.running)
        has.held.set()
        await eventually(lambda: not has.running)
        assert has.called_off == [], "it is not over"
        has.has.add(f"{job_id}:generate")
        async with studio_over(durable_dsn, tmp_path, **given) as studio:
            await studio.chat_worker()
            url = f"http://127.0.0.1:{two}"
            await studio.register("image-1", url, kind="image", models=models)
            assert (await ended(studio, job_id))["state"] == "completed"
    assert ([sent["idempotency-key"] for sent in has.headers], other.received) == ([f"{job_id}:generate"] * 2, [])
    assert {sent["x-soundstage-wait"] for sent in has.headers} == {"60"}


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
insert into jobs (id, pipeline, tenant, key_id, way, pool, caller, request, request_sha256, deadline_at, version)
select %s, pipeline, tenant, key_id, 'background', 'chat1to1', caller, %s, request_sha256,
       now() + interval '1 hour', '0' from jobs where id = %s
"""
TOUCHED = """
insert into job_events (job, number, key, name, data) values (%s, 1, 'x', 'pipeline.step.completed', '{"step": "x"}')
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
            await connection.execute(OLDER, (job_id, Jsonb(ASKED), first.headers["x-job-id"]))
        await connection.execute(TOUCHED, (touched,))
        await connection.execute("update jobs set events = 1 where id = %s", (touched,))
    older = await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True)
    async with older:  # an orchestrator of the older version, which lives
        await older.execute("select pg_advisory_lock_shared(%s)", (lock_key("version", "0"),))
        again = await durable_studio.post(PATH, {**ASKED, "background": True})
        assert (await ended(durable_studio, again.json()["id"]))["state"] == "completed"
        states = [(await durable_studio.get(f"/v1/jobs/{one}")).json()["state"] for one in (untouched, touched)]
        assert states == ["queued", "queued"], "they are the older one's to finish"
    assert (await ended(durable_studio, untouched))["state"] == "completed"
    failed = await ended(durable_studio, touched)
    assert (failed["state"], failed["error"]["code"]) == ("failed", "upgraded")


STEPS_OF_VERSION = {
    "2": {
        **{name: ["expand", "generate", "caption"] for name in ("chat1to1", "shorts", "scenes")},
        **{name: ["generate"] for name in ("private", "imagegen")},
        "profile": ["prompt", "generate"],
    }
}


async def test_other_steps_have_another_version(durable_studio: Studio) -> None:
    """Whoever changes the steps of a pipeline raises VERSION, and writes them down here."""
    await durable_studio.chat_worker()
    await durable_studio.image_worker()
    await durable_studio.selfie_worker()
    found = {}
    for name, pipeline in PIPELINES.items():
        body = {"prompt": "an apple"} if name in ("private", "imagegen") else {"message": "an apple"}
        sent: dict[str, Any] = {"body": body}
        if pipeline.form:
            sent = {"files": {"image": ("me.jpg", b"\xff\xd8 a selfie")}, "data": {"consent": "true"}}
        job_id = (await durable_studio.post(pipeline.path, **sent)).headers["x-job-id"]
        events = (await durable_studio.get(f"/v1/jobs/{job_id}/events")).json()["data"]
        found[name] = [event["step"] for event in events if event["type"].endswith("step.started")]
    assert found == STEPS_OF_VERSION[VERSION]


async def test_ended_jobs_are_purged_with_their_steps(durable_dsn: str, durable_studio: Studio) -> None:
    await durable_studio.chat_worker()
    job_id = (await durable_studio.post(PATH, {**ASKED, "background": True})).json()[
        "id"
    ]  # queued: nobody can draw yet
    await durable_studio.image_worker()
    await ended(durable_studio, job_id)
    async with open_pool(durable_dsn, size=2) as pool, pool.connection() as connection:

        async def kept() -> list[int]:
            tables = ("jobs where id", "job_events where job")
            found = []
            for table in tables:
                query = f"select count(*) as n from {table} = %s"  # noqa: S608 - constants
                row = await (await connection.execute(query.encode(), (job_id,))).fetchone()
                found.append(row["n"] if row else 0)
            return found

        assert all(await kept())
        assert await JobStore(pool, Seal(bytes(32))).purge(1, 500) == 0
        assert await JobStore(pool, Seal(bytes(32))).purge(0, 500) == 1
        assert not any(await kept())
    assert (await durable_studio.get(f"/v1/jobs/{job_id}")).json()["error"]["code"] == "job_not_found"
