"""To rotate a key changes its secret: who it is, and all that belongs to it, goes on."""

import os
import sys
from asyncio import create_subprocess_exec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from core.db.migrate import bundled, migrate
from core.db.pool import open_pool
from core.errors import Unauthenticated
from orchestrator.access.keys import Keys, create_key, hash_of
from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import answers, eventually
from tests.orchestrator.test_prompts_api import made as released
from tests.orchestrator.test_prompts_api import named

slow = pytest.mark.slow
CHAT = {"model": "small", "messages": [{"role": "user", "content": "one two"}]}
DRAW = "/v1/imagegen"
ASKED = {"prompt": "a red apple", "seed": 7}
LIMITS = {"images_per_minute": 4, "budget_tokens": 100_000, "budget_days": 366}
NOW = {"grace_seconds": 0}


async def made(studio: Studio, **wanted: Any) -> dict[str, Any]:
    answer = await studio.post("/v1/keys", {"name": "an app", "scopes": ["chat", "pipelines"], **wanted})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def rotated(studio: Studio, key: dict[str, Any], body: Any = NOW) -> dict[str, Any]:
    answer = await studio.post(f"/v1/keys/{key['id']}/rotate", body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def status(studio: Studio, secret: str) -> int:
    return (await studio.get("/v1/models", key=secret)).status_code


# -- who it is --------------------------------------------------------------------------------------------------------


@slow
async def test_a_rotated_key_is_the_same_key(studio: Studio) -> None:
    key = await made(studio, limits=LIMITS, max_tier=2, age_assured=True)
    new = await rotated(studio, key)
    for name in ("id", "tenant", "name", "scopes", "limits", "max_tier", "age_assured_at", "created_at", "expires_at"):
        assert new[name] == key[name], name
    assert new["secret"] != key["secret"]
    assert [await status(studio, each["secret"]) for each in (key, new)] == [401, 200]
    listed = (await studio.get("/v1/keys?revoked=true")).json()["data"]
    assert [row["id"] for row in listed].count(key["id"]) == 1
    assert all("secret" not in row and "sha256" not in row for row in listed)


@slow
async def test_what_is_spent_stays_spent(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.access.limits.MINUTE", 86_400)
    await studio.chat_worker()
    await studio.drawing_worker()
    key = await made(studio, limits=LIMITS)

    async def left(secret: str) -> str:
        over = await studio.post("/v1/chat/completions", {**CHAT, "max_tokens": 1_000_000}, key=secret)
        assert over.status_code == 429
        return str(over.headers["x-ratelimit-remaining-budget"])

    assert (await studio.post("/v1/chat/completions", CHAT, key=key["secret"])).status_code == 200
    assert (await studio.post(DRAW, {**ASKED, "n": 3}, key=key["secret"])).status_code == 200
    before = await left(key["secret"])
    new = await rotated(studio, key)
    assert await left(new["secret"]) == before
    assert int(before) < LIMITS["budget_tokens"]
    assert (await studio.post(DRAW, {**ASKED, "n": 2}, key=new["secret"])).status_code == 429


@slow
async def test_jobs_and_idempotency_keys_go_on(durable_studio: Studio) -> None:
    studio = durable_studio
    worker = await studio.drawing_worker()
    key, named_key = await made(studio), {"idempotency-key": "order-17"}
    whole = await studio.post(DRAW, ASKED, key=key["secret"], headers=named_key)
    worker.held.clear()
    under_way = await studio.post(DRAW, {**ASKED, "background": True}, key=key["secret"])
    await eventually(lambda: worker.running)
    new = await rotated(studio, key)
    later = await studio.post(DRAW, {**ASKED, "background": True, "seed": 8}, key=new["secret"])
    assert later.status_code == 202
    worker.held.set()

    async def completed() -> bool:
        jobs = (await studio.get("/v1/jobs", key=new["secret"])).json()["data"]
        return len(jobs) == 3 and all(job["state"] == "completed" for job in jobs)

    await answers(completed)
    again = await studio.post(DRAW, ASKED, key=new["secret"], headers=named_key)
    assert (again.text, again.headers["x-job-id"]) == (whole.text, whole.headers["x-job-id"])
    assert under_way.json()["id"] != whole.headers["x-job-id"]


@slow
async def test_a_job_that_waited_while_its_key_was_rotated_runs(durable_studio: Studio) -> None:
    studio = durable_studio
    key = await made(studio)
    waits = await studio.post(DRAW, {**ASKED, "background": True}, key=key["secret"])
    new = await rotated(studio, key)
    await studio.drawing_worker()

    async def ended() -> bool:
        job = (await studio.get(f"/v1/jobs/{waits.json()['id']}", key=new["secret"])).json()
        assert job["error"] is None
        return bool(job["state"] == "completed")

    await answers(ended)


@slow
async def test_conversations_and_runs_go_on(studio: Studio) -> None:
    worker = await studio.chat_worker()
    await released(studio, "First.")
    key = await made(studio)
    sent = {"message": "My boat is red.", "conversation_id": "c-1"}
    assert (await studio.post("/chat", sent, key=key["secret"])).status_code == 200
    answered = await studio.post("/v1/chat/completions", named("1"), key=key["secret"])
    new = await rotated(studio, key)
    assert (await studio.post("/chat", {**sent, "message": "Which?"}, key=new["secret"])).status_code == 200
    last = (await worker.received())[-1]["body"]["messages"]
    assert "My boat is red." in [message["content"] for message in last]
    run = await studio.get(f"/v1/runs/{answered.headers['x-run-id']}", key=new["secret"])
    assert (run.status_code, run.json()["key_id"]) == (200, key["id"])


# -- the old secret ---------------------------------------------------------------------------------------------------

GRACE: dict[str, tuple[str, Any, int]] = {
    "none said": ("", None, 200),
    "an empty body": ("", {}, 200),
    "in the body": ("", {"grace_seconds": 60}, 200),
    "none in the body": ("", {"grace_seconds": 0}, 401),
    "in the query": ("?grace_seconds=60", None, 200),
    "none in the query": ("?grace_seconds=0", None, 401),
    "none in the query, an empty body": ("?grace_seconds=0", {}, 401),
}


@slow
@pytest.mark.parametrize(("query", "body", "old"), GRACE.values(), ids=GRACE.keys())
async def test_grace_is_as_it_was_asked_for(studio: Studio, query: str, body: Any, old: int) -> None:
    key = await made(studio)
    assert await status(studio, key["secret"]) == 200
    answer = await studio.post(f"/v1/keys/{key['id']}/rotate{query}", body)
    assert (answer.status_code, answer.json()["old_secrets_until"] is not None) == (201, old == 200)
    assert [await status(studio, secret) for secret in (key["secret"], answer.json()["secret"])] == [old, 200]


REFUSED: dict[str, tuple[str, Any, str]] = {
    "longer than 30 days": ("", {"grace_seconds": 2_592_001}, "grace_seconds"),
    "below nothing": ("", {"grace_seconds": -1}, "grace_seconds"),
    "no whole number": ("", {"grace_seconds": 1.5}, "grace_seconds"),
    "null": ("", {"grace_seconds": None}, "grace_seconds"),
    "another name": ("", {"grace": 5}, "grace"),
    "another name in the query": ("?grace=5", None, "grace"),
    "too long in the query": ("?grace_seconds=2592001", None, "grace_seconds"),
    "in both": ("?grace_seconds=5", {"grace_seconds": 5}, "grace_seconds"),
    "no object": ("", [5], ""),
}


@slow
async def test_what_cannot_be_honoured_is_refused(studio: Studio) -> None:
    key = await made(studio)
    headers = {"authorization": f"Bearer {studio.key}"}
    for query, body, param in REFUSED.values():
        answer = await studio.post(f"/v1/keys/{key['id']}/rotate{query}", body)
        assert answer.status_code == 400, (query, body)
        assert not param or answer.json()["error"]["param"] == param, (query, body)
    ended = await studio.http.request("DELETE", f"/v1/keys/{key['id']}", json={"grace_seconds": 5}, headers=headers)
    assert (ended.status_code, ended.json()["error"]["param"]) == (400, "grace_seconds")
    changed = await studio.http.patch(f"/v1/keys/{key['id']}", json={"grace_seconds": 5}, headers=headers)
    assert (changed.status_code, changed.json()["error"]["param"]) == (400, "grace_seconds")
    assert await status(studio, key["secret"]) == 200


@slow
async def test_an_old_secret_ends_with_its_grace_and_at_once_with_a_rotation_without(
    studio: Studio, migrated_dsn: str
) -> None:
    first = await made(studio)
    second = await rotated(studio, first, {"grace_seconds": 600})
    third = await rotated(studio, first, {"grace_seconds": 3600})
    secrets = [each["secret"] for each in (first, second, third)]
    assert [await status(studio, secret) for secret in secrets] == [200, 200, 200]
    async with await psycopg.AsyncConnection.connect(migrated_dsn) as connection:
        over = "update key_secrets set expires_at = now() - interval '1 s' where sha256 = %s"
        await connection.execute(over, (hash_of(secrets[0]),))

    async def ended() -> bool:
        return await status(studio, secrets[0]) == 401

    await answers(ended, "the epoch moves: what is cached is dropped")
    assert [await status(studio, secret) for secret in secrets] == [401, 200, 200]
    fourth = await rotated(studio, first)
    assert [await status(studio, each) for each in (*secrets, fourth["secret"])] == [401, 401, 401, 200]


@slow
async def test_old_secrets_are_few(studio: Studio) -> None:
    key = await made(studio)
    for _ in range(7):
        await rotated(studio, key, {"grace_seconds": 600})
    newest = await rotated(studio, key, {"grace_seconds": 600})
    refused = await studio.post(f"/v1/keys/{key['id']}/rotate", {"grace_seconds": 600})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "too_many_secrets")
    assert await status(studio, newest["secret"]) == 200, "nothing was changed"
    last = await rotated(studio, key)
    assert [await status(studio, each["secret"]) for each in (key, newest, last)] == [401, 401, 200]


@slow
async def test_a_key_that_has_ended_is_not_rotated_and_a_revoked_one_has_no_secret(studio: Studio) -> None:
    key = await made(studio)
    new = await rotated(studio, key, {"grace_seconds": 600})
    headers = {"authorization": f"Bearer {studio.key}"}
    over = {"expires_at": "2001-01-01T00:00:00Z"}
    assert (await studio.http.patch(f"/v1/keys/{key['id']}", json=over, headers=headers)).status_code == 200
    refused = await studio.post(f"/v1/keys/{key['id']}/rotate")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "key_expired")
    assert (await studio.http.delete(f"/v1/keys/{key['id']}", headers=headers)).status_code == 200
    assert [await status(studio, each["secret"]) for each in (key, new)] == [401, 401]
    refused = await studio.post(f"/v1/keys/{key['id']}/rotate")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "key_revoked")


@slow
async def test_other_orchestrators_follow(studio: Studio, migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path) as other:
        key = await made(studio)
        assert await status(other, key["secret"]) == 200
        new = await rotated(studio, key)

        async def followed() -> bool:
            return [await status(other, each["secret"]) for each in (key, new)] == [401, 200]

        await answers(followed)


@slow
async def test_the_command_line_says_how_long(studio: Studio, tmp_path: Path) -> None:
    key = await made(studio)
    for grace, old in (("600", 200), ("0", 401)):
        command = (sys.executable, "-m", "orchestrator", "keys", "--url", studio.url, "rotate", key["id"])
        given = {**os.environ, "DATA_DIR": str(tmp_path), "SOUNDSTAGE_API_KEY": studio.key}
        process = await create_subprocess_exec(*command, "--grace-seconds", grace, env=given, stdout=-1)
        out, _ = await process.communicate()
        lines = dict(line.split(": ", 1) for line in out.decode().splitlines())
        assert (process.returncode, lines["id"]) == (0, key["id"])
        assert [await status(studio, secret) for secret in (key["secret"], lines["secret"])] == [old, 200]


# -- the database -----------------------------------------------------------------------------------------------------


async def test_a_secret_that_was_rotated_away_makes_no_key(migrated_dsn: str) -> None:
    """As the key in DATA_DIR would at each start."""
    async with open_pool(migrated_dsn, size=2) as pool:
        secret = await create_key(pool, "local", ["admin"])
        async with pool.connection() as connection:
            await connection.execute("update key_secrets set expires_at = now()")
            await connection.execute("update api_keys set sha256 = %s", (hash_of("another"),))
        await create_key(pool, "local", ["admin"], secret=secret)
        with pytest.raises(Unauthenticated):
            await Keys(pool).authenticate([(b"authorization", b"Bearer " + secret.encode())])
        assert (await Keys(pool).authenticate([(b"authorization", b"Bearer another")])).scopes == {"admin"}


async def test_keys_of_the_version_before_keep_their_secrets(postgres_dsn: str) -> None:
    """Those that were there, and those that an orchestrator of that version makes while an upgrade rolls."""
    made_before = (
        "insert into api_keys (id, tenant, name, sha256, scopes, expires_at)"
        " values (%s, 'default', 'old', %s, '{chat}', now() + interval '1 hour')"
    )
    await migrate(postgres_dsn, [one for one in bundled() if one.name < "0015"])
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        await connection.execute(made_before, ("key_before", hash_of("before")))
    await migrate(postgres_dsn)
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        await connection.execute(made_before, ("key_while", hash_of("while")))
    async with open_pool(postgres_dsn, size=1) as pool:
        for secret in ("before", "while"):
            key = await Keys(pool).authenticate([(b"authorization", b"Bearer " + secret.encode())])
            assert (key.id, key.expires_at is not None) == (f"key_{secret}", True)
