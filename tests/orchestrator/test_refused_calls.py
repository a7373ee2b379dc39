"""A call that a limit refuses is a run with its refusal, whichever way it came; what was to be kept of it is kept."""

from typing import Any

import pytest

from tests.fakes.studio import Studio
from tests.fakes.wait import answers
from tests.orchestrator.test_profile import create
from tests.orchestrator.test_prompts_api import made, named, put

HI = [{"role": "user", "content": "hello"}]
RENDERED_IS_LONGER = {"prompt": {"id": "chat1to1.expand", "variables": {"message": "an apple"}}, "max_tokens": 5}
CALLS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "relayed": ("/v1/chat/completions", {"model": "small", "messages": HI, "max_tokens": 900}, None),
    "relayed, not judged": ("/v1/embeddings", {"model": "small", "input": "word " * 200}, None),
    "a recipe": ("/v1/chat/completions", RENDERED_IS_LONGER, "chat1to1.expand"),
    "messages": ("/generate", {"model": "qwen_instruct", "messages": HI, "max_tokens": 900}, None),
    "a pipeline's step": ("/v1/chat/1to1/expand", {"message": "an apple"}, "chat1to1.expand"),
}


async def limited(studio: Studio, *scopes: str) -> str:
    limits = {"budget_tokens": 500, "budget_days": 366}
    answer = await studio.post("/v1/keys", {"name": "app", "scopes": scopes, "limits": limits})
    secret: str = answer.json()["secret"]
    return secret


async def newest(studio: Studio) -> dict[str, Any]:
    run: dict[str, Any] = (await studio.get("/v1/runs?limit=1")).json()["data"][0]
    return run


@pytest.mark.parametrize("way", CALLS)
async def test_it_is_recorded(studio: Studio, way: str) -> None:
    path, body, recipe = CALLS[way]
    worker = await studio.chat_worker()
    answer = await studio.post(path, body, key=await limited(studio, "chat", "pipelines"))
    assert answer.status_code == 429, answer.text
    run = await newest(studio)
    assert (run["route"], run["status"], run["recipe"], run["worker"]) == (path, 429, recipe, None)
    assert run["request_id"] == answer.headers["x-request-id"]
    assert await worker.received() == []


async def test_a_selfies_question_is_recorded(studio: Studio) -> None:
    worker = await studio.selfie_worker()
    answer = await create(studio, key=await limited(studio, "pipelines"))
    assert answer.status_code == 429, answer.text
    run = await newest(studio)
    assert (run["recipe"], run["status"], worker.received) == ("profile.describe", 429, [])


async def test_a_replay_is_recorded_and_its_contents_are_kept(studio: Studio) -> None:
    worker = await studio.proving_worker()
    await made(studio, "First.")
    await put(studio, "/v1/tenants/default", {"store_contents": True, "contents_days": 5})
    run = ""

    async def kept() -> bool:
        nonlocal run
        answer = await studio.post("/v1/chat/completions", {**named("1"), "max_tokens": 900})
        run = answer.headers["x-run-id"]
        return (await studio.get(f"/v1/runs/{run}")).json()["contents"] is not None

    await answers(kept, "the epoch to be seen")
    asked = len(worker.received)
    refused = await studio.post(f"/v1/runs/{run}/replay", {"call": True}, key=await limited(studio, "chat", "admin"))
    assert (refused.status_code, len(worker.received)) == (429, asked)
    again = await newest(studio)
    assert (again["route"], again["status"], again["recipe"]) == (f"/v1/runs/{run}/replay", 429, "greet")
    contents = (await studio.get(f"/v1/runs/{again['id']}")).json()["contents"]
    assert (contents["variables"], contents["output"]) == ({"message": "Hi"}, None)


async def test_a_refused_recipes_contents_are_kept(studio: Studio) -> None:
    await studio.chat_worker()
    await put(studio, "/v1/tenants/default", {"store_contents": True, "contents_days": 5})
    key = await limited(studio, "chat")

    async def kept() -> bool:
        assert (await studio.post("/v1/chat/completions", RENDERED_IS_LONGER, key=key)).status_code == 429
        contents = (await studio.get(f"/v1/runs/{(await newest(studio))['id']}")).json()["contents"]
        return bool(contents and contents["variables"] == {"message": "an apple"})

    await answers(kept, "contents that are kept")
