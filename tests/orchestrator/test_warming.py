"""Chat engines are made warm for the pipelines: with the same opening that a request then begins with."""

from pathlib import Path
from typing import Any

from orchestrator.pipelines import PIPELINES
from tests.fakes.studio import ChatWorker, Studio, studio_over
from tests.fakes.wait import answers

RECIPES = {recipe for pipeline in PIPELINES.values() for recipe in pipeline.warm}


async def warmed(chat: ChatWorker) -> list[dict[str, Any]]:
    """The bodies that an engine was made warm by."""

    async def all_of_them() -> bool:
        return len(await chat.received()) == len(RECIPES)

    await answers(all_of_them, "an engine made warm")
    return [sent["body"] for sent in await chat.received()]


async def test_an_engine_that_comes_is_asked_for_each_recipes_opening(migrated_dsn: str, tmp_path: Path) -> None:
    assert {"chat1to1.expand", "shorts.expand", "scenes.expand", "caption", "profile.avatar"} == RECIPES
    async with studio_over(migrated_dsn, tmp_path, warm_recipes=True) as studio:
        first = await studio.chat_worker()
        asked = await warmed(first)
        assert {body["max_tokens"] for body in asked} == {1}
        assert sum("response_format" in body for body in asked) == 3, "the grammars of the expansions"
        await begins_as_warmed(studio, first, [body["messages"][0] for body in asked])
        before = len(await first.received())
        second = await studio.chat_worker("chat-2")
        assert await warmed(second) == asked
        assert len(await first.received()) == before, "it is warm"


async def begins_as_warmed(studio: Studio, chat: ChatWorker, openings: list[dict[str, str]]) -> None:
    await studio.image_worker()
    answer = await studio.post("/v1/chat/1to1/imagegen", {"message": "a boat"})
    assert answer.status_code == 200, answer.text
    for sent in (await chat.received())[len(RECIPES) :]:
        assert sent["body"]["messages"][0] in openings
        assert sent["body"]["messages"][0]["role"] == "system"
