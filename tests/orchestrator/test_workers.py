"""Workers come, stay by heartbeat, and go; every orchestrator over the same database knows of them."""

import json
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fakes.cable import cable
from tests.fakes.studio import LEASE_SECONDS, WORKER_KEY, Studio, studio_over
from tests.fakes.wait import answers

NOWHERE = "http://127.0.0.1:9"
CHAT = {"model": "small", "messages": [{"role": "user", "content": "one two"}]}


async def workers(studio: Studio) -> list[str]:
    return [worker["id"] for worker in (await studio.get("/v1/workers", key=WORKER_KEY)).json()["data"]]


async def becomes(studio: Studio, wanted: list[str]) -> None:
    """Until just these workers are known; the orchestrator reads its database every second."""

    async def known() -> bool:
        return await workers(studio) == wanted

    await answers(known, f"knowing {wanted}")


async def test_a_heartbeat_is_a_lease(studio: Studio) -> None:
    answer = await studio.register("w-1", NOWHERE)
    assert answer.json() == {"id": "w-1", "lease_seconds": LEASE_SECONDS, "heartbeat_seconds": LEASE_SECONDS / 3}
    await studio.register("w-1", NOWHERE, capacity=3)
    listed = (await studio.get("/v1/workers", key=WORKER_KEY)).json()["data"]
    assert [(worker["id"], worker["capacity"], worker["outstanding"]) for worker in listed] == [("w-1", 3, 0)]


async def test_the_newest_announcement_counts(studio: Studio) -> None:
    worker = await studio.chat_worker("w-1")
    assert (await studio.post("/v1/chat/completions", CHAT)).status_code == 200
    await studio.register("w-1", worker.url, models=[{"id": "other", "abilities": ["chat"]}])
    assert (await studio.post("/v1/chat/completions", CHAT | {"model": "other"})).status_code == 404, "the engine's own"
    assert (await workers(studio)) == ["w-1"]


UNUSABLE: dict[str, dict[str, Any]] = {
    "not ready": {"ready": False},
    "not ready, and naming no model": {"ready": False, "models": []},
    "draining": {"draining": True},
}


async def test_a_worker_that_is_not_ready_gets_nothing(studio: Studio) -> None:
    """Its models are away, not unknown: callers are told to come again."""
    worker = await studio.chat_worker("w-1")
    for name, announced in UNUSABLE.items():
        await studio.register("w-1", worker.url, **announced)
        answer = await studio.post("/v1/chat/completions", CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker"), name
        assert int(answer.headers["retry-after"]) >= 1
        assert (await studio.get("/v1/models")).json()["data"] == []
    assert await worker.received() == []


async def test_a_model_that_is_away_is_not_unknown_while_others_serve(studio: Studio) -> None:
    await studio.chat_worker("w-1", names=("small",))
    await studio.chat_worker("w-2", names=("big",))
    await studio.register("w-2", NOWHERE, ready=False, models=[])
    statuses = {
        model: (await studio.post("/v1/chat/completions", CHAT | {"model": model})).status_code
        for model in ("small", "big", "never-seen")
    }
    assert statuses == {"small": 200, "big": 503, "never-seen": 404}


async def test_a_model_without_the_ability_is_not_found(studio: Studio) -> None:
    await studio.image_worker()
    await studio.chat_worker()
    for path, model in (("/v1/images/generations", "small"), ("/v1/chat/completions", "tiny-image")):
        answer = await studio.post(path, {"model": model, "prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found"), path


async def test_a_farewell_ends_it(studio: Studio) -> None:
    await studio.register("w-1", NOWHERE)
    answer = await studio.http.delete("/v1/workers/w-1", headers={"authorization": f"Bearer {WORKER_KEY}"})
    assert answer.json() == {"id": "w-1", "deleted": True}
    assert await workers(studio) == []
    again = await studio.http.delete("/v1/workers/w-1", headers={"authorization": f"Bearer {WORKER_KEY}"})
    assert (again.status_code, again.json()["error"]["code"]) == (404, "worker_not_found")


async def test_an_id_may_look_like_a_path(studio: Studio) -> None:
    await studio.register("pod/a:1", NOWHERE)
    answer = await studio.http.delete("/v1/workers/pod/a:1", headers={"authorization": f"Bearer {WORKER_KEY}"})
    assert answer.status_code == 200


async def test_who_is_silent_is_forgotten(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path, lease_seconds=0.3) as studio:
        await studio.register("w-1", NOWHERE)
        await becomes(studio, [])
        assert (await studio.post("/v1/chat/completions", CHAT)).status_code == 503


BAD: dict[str, dict[str, Any]] = {
    "kind": {"kind": "toaster"},
    "url": {"url": "not a url"},
    "models.0.id": {"models": [{"id": "has spaces"}]},
    "models.0.abilities.0": {"models": [{"id": "m", "abilities": ["flying"]}]},
    "capacity": {"capacity": 0},
    "surprise": {"surprise": 1},
}


async def test_an_announcement_that_is_wrong_is_refused(studio: Studio) -> None:
    for param, announced in BAD.items():
        answer = await studio.register("w-1", **{"url": NOWHERE, **announced})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert await workers(studio) == []


async def test_only_operators_keys_speak_for_workers(studio: Studio) -> None:
    callers = (await studio.post("/v1/keys", {"name": "an app", "scopes": ["chat"]})).json()["secret"]
    for key, status in ((callers, 403), ("wrong", 401)):
        assert (await studio.post("/v1/workers", {"id": "w"}, key=key)).status_code == status
        assert (await studio.get("/v1/workers", key=key)).status_code == status


# -- two orchestrators over one database ------------------------------------------------------------------------------


async def test_two_orchestrators_see_each_others_workers(migrated_dsn: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(studio_over(migrated_dsn, tmp_path))
        two = await stack.enter_async_context(studio_over(migrated_dsn, tmp_path))
        worker = await one.chat_worker("w-1")
        await becomes(two, ["w-1"])
        assert (await two.post("/v1/chat/completions", CHAT)).status_code == 200
        assert len(await worker.received()) == 1
        await two.register("w-2", NOWHERE, ready=False)
        await becomes(one, ["w-1", "w-2"])
        await one.http.delete("/v1/workers/w-1", headers={"authorization": f"Bearer {WORKER_KEY}"})
        await becomes(two, ["w-2"])


async def test_a_row_that_is_not_understood_is_passed_over(
    studio: Studio, migrated_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version's orchestrator may have written it."""
    async with await psycopg.AsyncConnection.connect(migrated_dsn, autocommit=True) as connection:
        for worker_id, kind in (("from-the-future", "hologram"), ("known", "chat")):
            announcement = json.dumps({"id": worker_id, "kind": kind, "url": NOWHERE})
            await connection.execute(
                "insert into workers (id, kind, url, announcement, lease_until)"
                " values (%s, 'chat', %s, %s, now() + interval '1 minute')",
                (worker_id, NOWHERE, announcement),
            )
    with caplog.at_level(logging.WARNING, logger="orchestrator.workers.registry"):
        await becomes(studio, ["known"])
    assert "announcement not understood" in caplog.text


# -- the database goes away -------------------------------------------------------------------------------------------


async def test_without_the_database_work_goes_on_from_memory(migrated_dsn: str, tmp_path: Path) -> None:
    async with (
        cable(migrated_dsn, tmp_path) as line,
        studio_over(line.dsn, tmp_path) as studio,
    ):
        worker = await studio.chat_worker("w-1")
        recipe = {"prompt": {"id": "chat_conversation"}, "messages": CHAT["messages"]}
        assert (await studio.post("/v1/chat/completions", recipe)).status_code == 200
        assert (await studio.http.get("/readyz")).status_code == 200
        line.cut()
        assert (await studio.register("w-1", worker.url)).status_code == 200, "a heartbeat"
        assert (await studio.post("/v1/chat/completions", CHAT)).status_code == 200
        assert (await studio.post("/v1/chat/completions", recipe)).status_code == 200

        async def ready() -> bool:
            state = (await studio.http.get("/readyz")).json()
            assert (state["ready"], state["workers"]) == (state["database"], ["chat"])
            return bool(state["ready"])

        async def unready() -> bool:
            return not await ready()

        await answers(unready)
        await line.mend()
        await answers(ready)
