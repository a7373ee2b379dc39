"""GET /v1/models: what live workers serve now, and nothing else."""

import openai
import pytest

from tests.fakes.studio import Studio


async def test_models_and_aliases_of_live_workers_are_listed(studio: Studio) -> None:
    assert (await studio.get("/v1/models")).json() == {"object": "list", "data": []}
    await studio.chat_worker()
    await studio.image_worker()
    client = studio.sdk()
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == ["qwen_instruct", "small", "tiny-image"]
    assert {model.object for model in listed} == {"model"}
    assert await client.models.retrieve("small") == listed[1]
    alias = (await studio.get("/v1/models/qwen_instruct")).json()
    assert (alias["root"], alias["abilities"][0]) == ("small", "chat")


async def test_a_model_of_two_workers_is_listed_once(studio: Studio) -> None:
    for worker_id in ("w-1", "w-2"):
        await studio.register(worker_id, "http://127.0.0.1:9")
    assert len((await studio.get("/v1/models")).json()["data"]) == 2


async def test_a_name_may_hold_a_slash(studio: Studio) -> None:
    await studio.register("w-1", "http://127.0.0.1:9", models=[{"id": "org/model", "max_model_len": 4096}])
    assert (await studio.get("/v1/models/org/model")).json()["max_model_len"] == 4096


async def test_an_unknown_model(studio: Studio) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await studio.sdk().models.retrieve("nope")
    assert caught.value.code == "model_not_found"
    assert (await studio.get("/v1/models", key="wrong")).status_code == 401
