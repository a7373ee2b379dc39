"""What callers write stands in no table in clear where their tenant keeps no contents, and goes when it is erased."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from core.db.pool import open_pool
from core.errors import SoundstageError
from orchestrator.legacy.conversations import Conversations
from orchestrator.legacy.queue_ledger import Ledger
from orchestrator.operate.seal import Seal, contents_key
from tests.fakes.studio import Studio
from tests.fakes.workers import expansion

MARKER = "quillfeather"
TEXT = f"a {MARKER} at the harbour"
MESSAGES = [{"role": "user", "content": TEXT}]
RECIPE = {"prompt": {"id": "chat_conversation", "variables": {}}, "messages": MESSAGES, "stop": [MARKER]}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"model": "small", "messages": MESSAGES, "user": MARKER, "metadata": {"a": MARKER}}),
    ("/v1/chat/completions", RECIPE),
    ("/v1/chat/completions", {"prompt": {"id": "caption", "variables": {"prompt": TEXT}}}),
    ("/v1/completions", {"model": "small", "prompt": TEXT}),
    ("/v1/responses", {"model": "small", "input": TEXT, "instructions": TEXT}),
    ("/v1/images/generations", {"prompt": TEXT}),
    ("/v1/images/generations", {"prompt": f"{TEXT} zzexplicit"}),
    ("/v1/moderations", {"input": TEXT}),
    ("/v1/chat/1to1/imagegen", {"message": TEXT, "persona": TEXT, "messages": MESSAGES}),
    ("/v1/chat/1to1/imagegen", {"message": TEXT, "stream": True, "partial_images": 0}),
    ("/v1/chat/1to1/imagegen", {"message": TEXT, "background": True}),
    ("/v1/chat/1to1/imagegen", {"message": f"{TEXT} zzexplicit", "background": True}),
    ("/v1/chat/shorts/generate", {"message": TEXT, "context": TEXT}),
    ("/v1/chat/scenes/generate", {"message": TEXT}),
    ("/v1/chat/private/imagegen", {"prompt": TEXT}),
    ("/v1/imagegen", {"prompt": TEXT}),
    ("/v1/imagegen", {"prompt": TEXT, "size": "64x9999", "background": True}),
    ("/v1/chat/1to1/expand", {"message": TEXT}),
    ("/v1/chat/1to1/caption", {"prompt": TEXT}),
    ("/chat", {"message": TEXT, "conversation_id": "ours"}),
    ("/chat", {"message": f"{TEXT} again", "conversation_id": "ours", "system_prompt": TEXT}),
    ("/chat", {"messages": MESSAGES}),
    ("/generate", {"messages": MESSAGES}),
    ("/enhance", {"prompt": TEXT, "job_type": "sdxl_image_fast"}),
    ("/enhance", {"prompt": TEXT, "job_type": "sdxl_image_high", "system_prompt": TEXT, "context": TEXT}),
    ("/enhance/legacy", {"prompt": TEXT, "job_type": "sdxl_image_fast"}),
]


async def tables_that_hold(dsn: str, marker: str) -> dict[str, int]:
    """How many rows of which table hold it, as text or as bytes."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        query = (
            "select format('%I.%I', table_schema, table_name) from information_schema.tables"
            " where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')"
        )
        found: dict[str, int] = {}
        for (table,) in await (await connection.execute(query)).fetchall():
            like = f"select count(*) from {table} t where t::text like any(%s)"  # noqa: S608 - a table's own name
            given = ([f"%{marker}%", f"%{marker.encode().hex()}%"],)
            (count,) = cast(tuple[int], await (await connection.execute(like.encode(), given)).fetchone())
            found |= {table: count} if count else {}
        return found


async def all_ended(studio: Studio) -> list[dict[str, Any]]:
    while True:
        jobs: list[dict[str, Any]] = (await studio.get("/v1/jobs?limit=100")).json()["data"]
        if all(job["state"] not in ("queued", "running") for job in jobs):
            await studio.get("/v1/runs")  # what waits to be written is
            return jobs
        await asyncio.sleep(0.05)


async def ask_everything(studio: Studio) -> None:
    worker = await studio.scripted_worker()
    worker.expand = expansion(f"a {MARKER} on the quay, evening light", f"a {MARKER} at the harbour")
    await studio.image_worker()
    for number, (path, body) in enumerate(ASKED):
        answer = await studio.post(path, body, headers={"idempotency-key": f"key-{number}"})
        assert answer.status_code < 500, (path, answer.text)


async def test_no_table_holds_a_callers_text_in_clear(durable_studio: Studio, durable_dsn: str) -> None:
    await ask_everything(durable_studio)
    jobs = await all_ended(durable_studio)
    assert {"completed", "failed"} <= {job["state"] for job in jobs}
    assert await tables_that_hold(durable_dsn, MARKER) == {}
    # What was kept is there for whose it is.
    job = next(job for job in jobs if job["state"] == "completed" and job["pipeline"] == "chat1to1")
    shown = (await durable_studio.get(f"/v1/jobs/{job['id']}")).json()
    assert MARKER in shown["result"]["prompt_used"]
    events = (await durable_studio.get(f"/v1/jobs/{job['id']}/events")).json()["data"]
    assert MARKER in json.dumps(events)
    again = await durable_studio.post(*ASKED[8], headers={"idempotency-key": "key-8"})
    assert MARKER in again.json()["prompt_used"]
    turn = await durable_studio.post("/chat", {"message": "and now?", "conversation_id": "ours"})
    assert turn.json()["context_type"] == "continued"


async def test_all_that_a_tenants_callers_wrote_is_erased_at_once(durable_studio: Studio, durable_dsn: str) -> None:
    await durable_studio.http.put(
        "/v1/tenants/default", json={"store_contents": True}, headers={"authorization": f"Bearer {durable_studio.key}"}
    )
    await ask_everything(durable_studio)
    jobs = await all_ended(durable_studio)
    answer = await durable_studio.http.delete(
        "/v1/tenants/default/contents", headers={"authorization": f"Bearer {durable_studio.key}"}
    )
    erased = answer.json()["erased"]
    assert erased["jobs"] == len(jobs)
    assert erased["conversations"] >= 1
    assert erased["enhancements"] >= 1
    async with await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True) as connection:
        for table in ("run_contents", "conversation_turns", "enhancements", "jobs", "job_events"):
            query = f"select count(*) from {table}"  # noqa: S608 - constants
            assert await (await connection.execute(query.encode())).fetchone() == (0,), table
    assert await tables_that_hold(durable_dsn, MARKER) == {}


async def test_what_the_version_before_kept_is_read(durable_studio: Studio, durable_dsn: str) -> None:
    """In clear, as it stands until its time is over."""
    await durable_studio.scripted_worker()
    await durable_studio.image_worker()
    job = (await durable_studio.post("/v1/imagegen", {"prompt": "a boat"})).headers["x-job-id"]
    talk = await durable_studio.post("/chat", {"message": "hello", "conversation_id": "old"})
    assert talk.status_code == 200, talk.text
    async with await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True, row_factory=dict_row) as connection:
        await connection.execute("set session_replication_role = replica")  # what ended may not change otherwise
        answer = Jsonb({"prompt_used": "an old boat", "images": None, "image_base64": None})
        query = "update jobs set request = %s, answer = %s where id = %s"
        await connection.execute(query, (Jsonb({"prompt": "an old boat"}), answer, job))
        await connection.execute('update job_events set data = \'{"step": "old"}\' where job = %s', (job,))
        await connection.execute("update conversation_turns set sealed = null, content = 'an old hello'")
    assert (await durable_studio.get(f"/v1/jobs/{job}")).json()["result"]["prompt_used"] == "an old boat"
    events = (await durable_studio.get(f"/v1/jobs/{job}/events")).json()["data"]
    assert {event["step"] for event in events} == {"old"}
    talk = await durable_studio.post("/chat", {"message": "and?", "conversation_id": "old"})
    assert talk.json()["context_type"] == "continued"


async def test_a_queues_results_are_sealed(postgres_dsn: str, migrated_dsn: str, tmp_path: Path) -> None:
    seal = Seal(contents_key(tmp_path / "key"))
    async with open_pool(migrated_dsn) as pool:
        ledger = Ledger(pool, seal, "queue", 60)
        await ledger.begin("one")
        assert await ledger.end("one", "done", {"original_prompt": TEXT}, "default")
        assert await tables_that_hold(migrated_dsn, MARKER) == {}
        assert (await ledger.begin("one")).result == {"original_prompt": TEXT}


async def test_a_turn_moved_elsewhere_does_not_open(migrated_dsn: str, tmp_path: Path) -> None:
    seal = Seal(contents_key(tmp_path / "key"))
    sealed = seal.seal(b"hello", "one")
    assert seal.open(sealed, "one") == b"hello"
    for other, place in ((seal, "two"), (Seal(contents_key(tmp_path / "other")), "one")):
        with pytest.raises(SoundstageError) as caught:
            other.open(sealed, place)
        assert caught.value.code == "contents_key"
    assert seal.unwrap({"sealed": 1}, "one") == {"sealed": 1}
    assert Conversations(cast(Any, None), seal, most_tokens=1, hours=1, wait_seconds=1).most_tokens == 1
