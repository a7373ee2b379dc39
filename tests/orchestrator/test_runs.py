"""Run records: written soon, replayed, kept private; contents only where a tenant opted in, sealed and erasable."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from core.db.pool import open_pool
from core.errors import Unavailable
from orchestrator.operate.seal import Seal, contents_key
from orchestrator.runs.contents import Vault
from orchestrator.runs.record import MAX_WAITING, Record, Run, RunLog, new_run_id, now
from prompts import audit
from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import soon
from tests.orchestrator.test_prompts_api import made, named, put


async def answered(studio: Studio, version: str, **fields: Any) -> str:
    answer = await studio.post("/v1/chat/completions", {**named(version), **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-run-id"])


async def test_a_run_is_there_when_its_answer_is(studio: Studio) -> None:
    await studio.proving_worker()
    await made(studio, "First.")
    run = (await studio.get(f"/v1/runs/{await answered(studio, '1', seed=7)}")).json()
    assert (run["recipe"], run["version"], run["seed"], run["proof"]) == ("greet", 1, 7, "verified")
    assert (run["decision"], run["status"], run["contents"]) == ("allow", 200, None)
    assert all(
        len(run[f"{what}_sha256"]) == 64 for what in ("variables", "messages", "prompt_tokens", "output", "answer")
    )
    assert "Hi" not in str({**run, "contents": None})


async def test_replay_of_a_run_made_three_releases_ago(studio: Studio) -> None:
    await studio.proving_worker()
    await made(studio, "First.")
    run = await answered(studio, "1", seed=7)
    await made(studio, "Second.", "Third.", "Fourth.")
    body = {"variables": {"message": "Hi"}, "call": True}
    found = (await studio.post(f"/v1/runs/{run}/replay?release=4", body)).json()
    assert (found["release"], found["same"]) == ("greet@1", True)
    assert found["called"]["same_output"]
    assert found["called"]["output"] == "seed 7: Hi"
    assert found["other"]["release"] == "greet@4"
    assert "-First." in found["other"]["diff"]
    assert "+Fourth." in found["other"]["diff"]


async def test_a_replay_that_calls_is_a_request_under_limits_and_a_run_of_its_own(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.access.limits.MINUTE", 86_400)
    worker = await studio.scripted_worker()
    await made(studio, "First.")
    limits = {"requests_per_minute": 3, "budget_tokens": 100_000, "budget_days": 366}
    key = (await studio.post("/v1/keys", {"name": "app", "scopes": ["chat"], "limits": limits})).json()["secret"]
    first = await studio.post("/v1/chat/completions", named("1"), key=key)
    assert first.status_code == 200, first.text
    path, body = f"/v1/runs/{first.headers['x-run-id']}/replay", {"variables": {"message": "Hi"}}

    async def called() -> tuple[int, int]:
        answer = await studio.post(path, {**body, "call": True}, key=key)
        newest = (await studio.get("/v1/runs?limit=1")).json()["data"][0]
        assert newest["route"] == path
        return answer.status_code, newest["status"]

    assert await called() == (200, 200)
    worker.status = 500
    assert await called() == (502, 502)
    refused = await studio.post(path, {**body, "call": True}, key=key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert (await studio.post(path, body, key=key)).status_code == 200, "to render is no work"
    raised = {"limits": {**limits, "requests_per_minute": 100}}
    listed = (await studio.get("/v1/keys")).json()["data"]
    key_id = next(row["id"] for row in listed if row["name"] == "app")
    headers = {"authorization": f"Bearer {studio.key}"}
    assert (await studio.http.patch(f"/v1/keys/{key_id}", json=raised, headers=headers)).status_code == 200
    over = {"model": "small", "messages": [], "max_tokens": 1_000_000}
    told = await studio.post("/v1/chat/completions", over, key=key)
    assert int(told.headers["x-ratelimit-remaining-budget"]) == 100_000 - 2 * 7, "the answers' own usage"


async def test_a_replay_needs_the_runs_own_variables(studio: Studio) -> None:
    await studio.proving_worker()
    await made(studio, "First.")
    run = await answered(studio, "1")
    for body, code in (({}, "no_contents"), ({"variables": {"message": "Other"}}, "other_variables")):
        answer = await studio.post(f"/v1/runs/{run}/replay", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, code)
    relayed = await studio.post(
        "/v1/chat/completions", {"model": "small", "messages": [{"role": "user", "content": "x"}]}
    )
    answer = await studio.post(f"/v1/runs/{relayed.headers['x-run-id']}/replay", {})
    assert answer.json()["error"]["code"] == "not_a_recipe"


TOOLS = [{"type": "function", "function": {"name": "f", "description": "a secret of the caller"}}]


async def test_of_what_else_the_caller_sent_a_record_keeps_hashes(studio: Studio) -> None:
    worker = await studio.proving_worker()
    await made(studio, "First.")
    sent: dict[str, Any] = {"temperature": 0, "seed": 7, "tools": TOOLS, "stop": ["a secret"], "user": "a secret"}
    run = await answered(studio, "1", **sent)
    record = (await studio.get(f"/v1/runs/{run}")).json()
    assert "secret" not in str(record)
    assert {name: record["sampling"][name] for name in ("temperature", "seed")} == {"temperature": 0, "seed": 7}
    assert all(len(record["sampling"][name]["sha256"]) == 64 for name in ("tools", "stop", "user"))
    path, given = f"/v1/runs/{run}/replay", {"variables": {"message": "Hi"}, "call": True}
    for fields in ({}, {**sent, "tools": []}):
        answer = await studio.post(path, {**given, "fields": fields})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "other_fields")
    found = (await studio.post(path, {**given, "fields": sent})).json()
    assert found["called"]["same_output"]
    assert {name: worker.received[-1][name] for name in sent} == sent


async def test_contents_are_kept_sealed_only_after_opting_in_and_can_be_erased(
    studio: Studio, migrated_dsn: str
) -> None:
    await studio.proving_worker()
    await made(studio, "First.")
    opted = await put(studio, "/v1/tenants/default", {"store_contents": True, "contents_days": 5})
    assert opted.json()["store_contents"]
    run = await answered(studio, "1", stop=["x"])
    while (contents := (await studio.get(f"/v1/runs/{run}")).json()["contents"]) is None:
        run = await answered(studio, "1", stop=["x"])  # until the epoch is seen
    fields = {"stop": ["x"]}
    assert contents == {"variables": {"message": "Hi"}, "history": [], "output": "seed None: Hi", "fields": fields}
    assert (await studio.post(f"/v1/runs/{run}/replay", {"call": True})).json()["called"]["same_output"]
    async with await psycopg.AsyncConnection.connect(migrated_dsn) as connection:
        row = await (await connection.execute("select sealed from run_contents where run = %s", (run,))).fetchone()
    assert row is not None
    assert b"message" not in bytes(row[0])
    erased = await studio.http.delete(f"/v1/runs/{run}/contents", headers={"authorization": f"Bearer {studio.key}"})
    assert erased.json() == {"id": run, "erased": True}
    after = (await studio.get(f"/v1/runs/{run}")).json()
    assert (after["contents"], len(after["messages_sha256"])) == (None, 64)
    kept = await answered(studio, "1")
    out = await put(studio, "/v1/tenants/default", {"store_contents": False})
    assert out.status_code == 200
    assert (await studio.get(f"/v1/runs/{kept}")).json()["contents"] is None


def record(days_ago: float = 0) -> Run:
    at = now() - timedelta(days=days_ago)
    return Run(id=new_run_id(), at=at, tenant="t", key_id="k", request_id="r", route="/x", floor="f", status=200)


async def test_what_waits_is_bounded_and_written_when_the_database_is_back(migrated_dsn: str, tmp_path: Path) -> None:
    async with open_pool(migrated_dsn, size=1, wait_seconds=1) as pool:
        log = RunLog(pool, Vault(pool, Seal(contents_key(tmp_path / "key"))))
        async with pool.connection():  # the only connection is taken: to the log the database is away
            for _ in range(MAX_WAITING + 5):
                log.add(record())
            assert not await log.flush()
        assert await log.flush()
        async with pool.connection() as connection:
            row = await (await connection.execute("select count(*) as n from runs")).fetchone()
        assert row == {"n": MAX_WAITING}


async def test_who_reads_waits_for_one_try_to_write_and_is_told_that_the_database_is_away(
    migrated_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_pool(migrated_dsn, size=1) as pool:
        log = RunLog(pool, Vault(pool, Seal(contents_key(tmp_path / "key"))))
        began, over = asyncio.Event(), asyncio.Event()
        tries = 0

        async def hangs(batch: object) -> None:
            nonlocal tries
            tries += 1
            began.set()
            await over.wait()
            raise psycopg.OperationalError("it hung")

        with monkeypatch.context() as away:
            away.setattr(log, "_insert", hangs)
            log.add(record())
            writing = asyncio.ensure_future(log.flush())
            await soon(began.wait())
            readers = [asyncio.ensure_future(log.written()) for _ in range(3)]
            await asyncio.sleep(0)  # they have begun to wait
            over.set()
            for refused in await soon(asyncio.gather(*readers, return_exceptions=True)):
                assert isinstance(refused, Unavailable)
                assert (refused.code, refused.retry_after) == ("database_unavailable", 2)
            assert (await soon(writing), tries) == (False, 1)
        await soon(log.written())


async def test_what_waits_is_written_at_the_end(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path) as studio:
        await studio.proving_worker()
        await made(studio, "First.")
        runs = [await answered(studio, "1") for _ in range(3)]
    async with await psycopg.AsyncConnection.connect(migrated_dsn) as connection:
        rows = await (await connection.execute("select id from runs where id = any(%s)", (runs,))).fetchall()
    assert sorted(row[0] for row in rows) == sorted(runs)


async def test_old_records_are_let_go_in_batches_with_their_contents_and_the_audit_chain_says_so(
    migrated_dsn: str, tmp_path: Path
) -> None:
    async with open_pool(migrated_dsn, size=2) as pool:
        log = RunLog(pool, Vault(pool, Seal(contents_key(tmp_path / "key"))))
        old, young = [record(days_ago=40) for _ in range(7)], [record(), record(days_ago=20)]
        for run in (*old, *young):
            log.add(run)
        await log.flush()
        async with pool.connection() as connection:
            await connection.execute("update tenants set store_contents = true where id = 'default'")
            await connection.execute(
                "insert into run_contents values (%s, 'default', 'x', now() + interval '1 day')", (old[0].id,)
            )
        assert await log.purge_once(30, batch=3) == 7
        assert await log.purge_once(30, batch=3) == 0
        async with pool.connection() as connection:
            kept = await (await connection.execute("select id from runs order by at desc")).fetchall()
            contents = await (await connection.execute("select from run_contents")).fetchall()
            said = await (await connection.execute("select detail from audit where action = 'purge'")).fetchall()
        assert ([row["id"] for row in kept], contents) == ([run.id for run in young], [])
        assert len(said) == 3
        assert (await audit.verify(pool)).whole


async def test_a_record_that_the_database_refuses_is_set_aside_and_its_neighbours_are_kept(
    migrated_dsn: str, tmp_path: Path
) -> None:
    before = refused()
    async with open_pool(migrated_dsn, size=1) as pool:
        log = RunLog(pool, Vault(pool, Seal(contents_key(tmp_path / "key"))))
        runs = [record() for _ in range(9)]
        runs[0].model, runs[3].model = "a\0", "half a pair: \ud800"
        runs[4].seed, runs[8].sampling = 2**70, {"a\0": 1}
        for run in runs:
            log.add(run)
        assert await log.flush()
        async with pool.connection() as connection:
            kept = await (await connection.execute("select id from runs")).fetchall()
    assert {row["id"] for row in kept} == {runs[at].id for at in (1, 2, 5, 6, 7)}
    assert refused() - before == 4


def refused() -> float:
    return REGISTRY.get_sample_value("soundstage_runs_refused_total") or 0.0


async def test_what_waits_behind_a_refused_record_waits_on_where_the_database_goes_away(
    migrated_dsn: str, tmp_path: Path
) -> None:
    """The first half of a batch is kept; then the database is gone: the other half is written when it is back."""
    async with open_pool(migrated_dsn, size=1, wait_seconds=0.2) as pool:
        log = _GoesAway(pool, Vault(pool, Seal(contents_key(tmp_path / "key"))))
        runs = [record() for _ in range(4)]
        runs[3].model = "a\0"
        for run in runs:
            log.add(run)
        assert not await log.flush()
        assert await log.flush()
        async with pool.connection() as connection:
            kept = await (await connection.execute("select id from runs")).fetchall()
    assert {row["id"] for row in kept} == {run.id for run in runs[:3]}


class _GoesAway(RunLog):
    """The database is away at the third try to write."""

    tries = 0

    async def _insert(self, batch: list[Record]) -> None:
        self.tries += 1
        if self.tries == 3:
            raise psycopg.OperationalError("away")
        await super()._insert(batch)


async def test_another_key_than_an_admins_is_shown_no_recipes_text(studio: Studio) -> None:
    await studio.proving_worker()
    made = await studio.post("/v1/keys", {"name": "app", "scopes": ["chat"]})
    app = made.json()["secret"]
    own = [{"role": "user", "content": "what a fine harbour"}]
    asked = {"prompt": {"id": "chat_conversation", "variables": {}}, "messages": own}
    for name in ("echo", "prompt_logprobs", "return_prompt_text", "return_token_ids", "enable_response_messages"):
        refused = await studio.post("/v1/chat/completions", {**asked, name: True}, key=app)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)
    run = (await studio.post("/v1/chat/completions", asked, key=app)).headers["x-run-id"]
    path, given = f"/v1/runs/{run}/replay", {"variables": {}, "history": own, "call": True}
    whole = (await studio.post(path, given)).json()
    shown = (await studio.post(path, given, key=app)).json()
    assert whole["same"]
    assert shown["same"]
    assert shown["called"]["same_output"]
    texts = [message["content"] for message in whole["messages"] if message not in own]
    assert texts
    assert not any(text in str(shown) for text in texts)
    assert own[0] in shown["messages"]
    assert all(set(message) == {"role", "sha256"} for message in shown["messages"] if message not in own)
    compared = await studio.post(f"{path}?release=production", given, key=app)
    assert (compared.status_code, compared.json()["error"]["code"]) == (403, "missing_scope")
    assert (await studio.get("/v1/prompts/chat_conversation", key=app)).status_code == 403
