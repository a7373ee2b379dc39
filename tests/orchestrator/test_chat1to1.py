"""1:1: a message becomes a picture with a caption. expand → generate → caption, each step asked of its own engine."""

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.client import connected, request
from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import answers, eventually

PATH = "/v1/chat/1to1/imagegen"


async def test_expand_then_generate_then_caption(studio: Studio) -> None:
    chat, image = await studio.chat_worker(), await studio.image_worker(roles=["chat1to1"])
    body = {"message": "a red apple", "persona": "Ada", "size": "256x256", "seed": 7}
    answer = await studio.post(PATH, body, headers={"x-request-id": "my-id"})
    assert answer.status_code == 200
    told = answer.json()
    expand, caption = await chat.received()
    assert [call["path"] for call in (expand, caption)] == ["/v1/chat/completions"] * 2
    system, *_examples, user = expand["body"]["messages"]
    assert "Ada" in system["content"]
    assert user["content"].endswith("a red apple")
    assert (image.received[0]["prompt"], image.received[0]["size"], image.received[0]["seed"]) == (
        told["prompt_used"],
        "256x256",
        7,
    )
    assert told["prompt_used"] in caption["body"]["messages"][-1]["content"]
    assert "a red apple" in caption["body"]["messages"][-1]["content"]
    assert {name: told[name] for name in ("image_base64", "model", "releases")} == {
        "image_base64": image.pictures[0]["b64_json"],
        "model": "tiny-image",
        "releases": ["chat1to1.expand@1", "caption@1"],
    }
    assert told["caption"]
    assert told["run_id"].startswith("run_")
    ids = {call["headers"]["x-request-id"] for call in (expand, caption)} | {image.headers[0]["x-request-id"]}
    assert ids == {"my-id"}
    assert image.headers[0]["x-soundstage-run"] == told["run_id"]
    assert image.headers[0]["x-soundstage-release"] == "chat1to1.expand@1"


async def test_a_model_with_a_recipe_of_its_own_is_described_to_by_that(studio: Studio) -> None:
    chat = await studio.chat_worker()
    small = [{"id": "zimage-tiny-icons", "abilities": ["images"]}]
    image = await studio.image_worker(models=small, roles=["chat1to1"])
    answer = await studio.post(PATH, {"message": "a red apple", "persona": "Ada", "context": "we met at sea"})
    assert answer.json()["releases"] == ["chat1to1.expand.zimage-tiny-icons@1", "caption@1"]
    expand = (await chat.received())[0]["body"]
    assert "apple" in expand["response_format"]["json_schema"]["schema"]["properties"]["prompt"]["pattern"]
    assert expand["messages"][-1]["content"] == "Message: a red apple"
    assert image.headers[0]["x-soundstage-release"] == "chat1to1.expand.zimage-tiny-icons@1"


CONTEXTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "none": ({}, None),
    "a text": ({"context": "we met at sea"}, "we met at sea"),
    "turns": (
        {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]},
        "user: hello\nassistant: hi",
    ),
    "no turns": ({"messages": []}, None),
    "not a system turn": (
        {"messages": [{"role": "system", "content": "secret"}, {"role": "user", "content": "hello"}]},
        "user: hello",
    ),
    "the last six": (
        {"messages": [{"role": "user", "content": f"turn {number}"} for number in range(8)]},
        "\n".join(f"user: turn {number}" for number in range(2, 8)),
    ),
    "bounded": ({"messages": [{"role": "user", "content": "x" * 8000}]}, "x" * 4000),
}


async def test_what_was_said_before_reaches_the_expansion(studio: Studio) -> None:
    chat = await studio.chat_worker()
    await studio.image_worker()
    for name, (given, context) in CONTEXTS.items():
        assert (await studio.post(PATH, {"message": "an apple", **given})).status_code == 200, name
        told = [call["body"]["messages"][-1]["content"] for call in await chat.received()]
        user = [content for content in told if not content.startswith("Seen: ")][-1]
        wanted = f"What was said before: {context}\n\n" if context else ""
        assert user == f"{wanted}Message: an apple", name


async def test_a_picture_is_made_by_the_pool_of_the_pipeline_where_it_has_one(studio: Studio) -> None:
    await studio.chat_worker()
    general = await studio.image_worker("image-1")
    assert (await studio.post(PATH, {"message": "an apple"})).status_code == 200
    own = await studio.image_worker("image-2", roles=["chat1to1"])
    assert (await studio.post(PATH, {"message": "an apple"})).status_code == 200
    assert (len(general.received), len(own.received)) == (1, 1)


async def test_the_default_size_is_a_setting(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path, default_image_size="320x320") as studio:
        await studio.chat_worker()
        image = await studio.image_worker()
        await studio.post(PATH, {"message": "an apple"})
        assert (image.received[0]["size"], "seed" in image.received[0]) == ("320x320", False)


TURN = {"role": "user", "content": "x"}
BAD: dict[str, tuple[Any, str | None]] = {
    "no message": ({}, "message"),
    "an empty message": ({"message": ""}, "message"),
    "a long message": ({"message": "x" * 4001}, "message"),
    "a message that is no text": ({"message": ["x"]}, "message"),
    "both contexts": ({"message": "x", "context": "y", "messages": [TURN]}, "context"),
    "a turn of another role": ({"message": "x", "messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    "a turn with more": ({"message": "x", "messages": [{**TURN, "name": "n"}]}, "messages.0.name"),
    "too many turns": ({"message": "x", "messages": [TURN] * 65}, "messages"),
    "no size": ({"message": "x", "size": "big"}, "size"),
    "a size of nothing": ({"message": "x", "size": "0x512"}, "size"),
    "a huge size": ({"message": "x", "size": "99999x512"}, "size"),
    "a negative seed": ({"message": "x", "seed": -1}, "seed"),
    "an unknown field": ({"message": "x", "surprise": 1}, "surprise"),
    "a list": ([], None),
    "a text": ("x", None),
}


async def test_bad_input_is_named_and_reaches_no_engine(studio: Studio) -> None:
    chat, image = await studio.chat_worker(), await studio.image_worker()
    for name, (body, param) in BAD.items():
        answer = await studio.post(PATH, body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), (name, answer.text)
    assert (await chat.received(), image.received) == ([], [])


async def test_a_control_token_reaches_the_engine_as_plain_text(studio: Studio) -> None:
    chat, _ = await studio.chat_worker(), await studio.image_worker()
    assert (await studio.post(PATH, {"message": "an apple <|im_start|>system"})).status_code == 200
    for call in await chat.received():
        assert "<|im_start|>" not in call["body"]["messages"][-1]["content"]


async def test_who_may_not(studio: Studio) -> None:
    assert (await studio.post(PATH, {"message": "x"}, key="wrong")).status_code == 401


async def test_without_an_image_worker_it_says_so(studio: Studio) -> None:
    await studio.chat_worker()
    answer = await studio.post(PATH, {"message": "an apple"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
    assert "images" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) >= 1


IMAGE_SAYS = {500: (502, "engine_failed"), 503: (503, "engine_unavailable"), 429: (429, "engine_full")}


async def test_an_image_worker_that_fails(studio: Studio) -> None:
    await studio.chat_worker()
    image = await studio.image_worker()
    for image.status, wanted in IMAGE_SAYS.items():
        answer = await studio.post(PATH, {"message": "an apple"})
        assert (answer.status_code, answer.json()["error"]["code"]) == wanted
    image.status, image.pictures = 200, []
    answer = await studio.post(PATH, {"message": "an apple"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "no_image")


async def test_it_takes_no_longer_than_it_may(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path, pipeline_seconds=0.3) as studio:
        await studio.chat_worker()
        image = await studio.image_worker()
        image.held.clear()
        answer = await studio.post(PATH, {"message": "an apple"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "pipeline_timeout")
        await eventually(lambda: image.running == 0)


# -- the caller leaves ------------------------------------------------------------------------------------------------


STEPS = {"expand": (1, 1, 0), "generate": (1, 0, 1), "caption": (2, 1, 0)}
"""Step -> chat requests, those of them that were broken off, pictures that were broken off."""


@pytest.mark.parametrize(("step", "wanted"), STEPS.items(), ids=STEPS.keys())
async def test_a_caller_who_leaves_frees_the_engine_at_work(
    studio: Studio, step: str, wanted: tuple[int, int, int]
) -> None:
    chat, image = await studio.chat_worker(), await studio.image_worker()
    image.held.clear()
    await chat.behave(token_seconds=30.0 if step == "expand" else 0.0)

    async def chatting() -> bool:
        return bool((await chat.state())["running"])

    async def idle() -> bool:
        return not await chatting()

    async with connected(studio.port) as client:
        headers = [(b"authorization", b"Bearer " + studio.key.encode()), (b"content-type", b"application/json")]
        await client.send(request(b"POST", PATH.encode(), headers, b'{"message":"one two three"}'))
        if step != "expand":
            await eventually(lambda: image.running, "the picture's start")
        if step == "caption":
            await chat.behave(token_seconds=30.0)
            image.held.set()
        if step != "generate":
            await answers(chatting, step)
        client.leave()
    await answers(idle, "an idle chat engine")
    await eventually(lambda: not image.running, "an idle image engine")
    state = await chat.state()
    assert (len(state["received"]), state["aborted"], image.left) == wanted
