"""The pipelines that tell a message, and those that take a prompt: what each step is given, and gives."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

from obstore.store import MemoryStore
from openai._streaming import SSEDecoder
from starlette.types import Message

from orchestrator.operate.blobs import Blobs, Retention
from orchestrator.pipelines import PIPELINES
from orchestrator.pipelines.calls import Events
from orchestrator.pipelines.flow import Event
from orchestrator.pipelines.picture_format import PictureFormat
from tests.fakes.studio import Studio
from tests.fakes.wait import eventually
from tests.fakes.workers import CAPTION, PREVIEW, SEED, expansion, picture
from tests.orchestrator.pipeline_cases import LONG, OWN_PROMPT, STORIES


def test_the_table_lists_every_pipeline_once() -> None:
    assert set(PIPELINES) == {"chat1to1", "shorts", "scenes", "private", "imagegen", "profile"}
    paths = [p.path for p in PIPELINES.values()] + [one.path for p in PIPELINES.values() for one in p.singles]
    assert len(paths) == len(set(paths))


async def test_one_call_gives_prompt_shortened_message_and_verdict(studio: Studio) -> None:
    chat = await studio.scripted_worker()
    images = {name: await studio.drawing_worker(name, roles=[name]) for name in STORIES}
    chat.expand = expansion("a red sailboat on a calm lake, dusk", "a red sailboat on a calm lake at dusk")
    for name, (path, _) in STORIES.items():
        chat.received.clear()
        answer = await studio.post(path, {"message": LONG, "context": "we like boats", "size": "64x64"})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert {key: told[key] for key in ("prompt_used", "message_used", "safety", "expansion", "caption")} == {
            "prompt_used": "a red sailboat on a calm lake, dusk",
            "message_used": "a red sailboat on a calm lake at dusk",
            "safety": "safe",
            "expansion": "model",
            "caption": CAPTION,
        }
        assert told["releases"] == [f"{name}.expand@1", "caption@1"]
        assert (told["image_base64"], told["seed"], told["images"]) == (picture(0), SEED, None)
        assert len(chat.received) == 2
        schema = chat.asked(caption=False)[0]["response_format"]["json_schema"]["schema"]
        assert set(schema["required"]) == {"intent", "prompt", "safety"}
        assert chat.asked(caption=True)[0]["messages"][-1]["content"] == (
            f"Seen: {told['prompt_used']}\nIt answers this message: {told['message_used']}"
        )
        headers = images[name].headers[0]
        assert (headers["x-soundstage-release"], headers["x-soundstage-tenant"]) == (f"{name}.expand@1", "default")
        assert headers["idempotency-key"].endswith(":generate")
    assert [len(image.received) for image in images.values()] == [1, 1, 1], "each by its own pool"


async def test_the_first_step_stands_alone(studio: Studio) -> None:
    chat = await studio.scripted_worker()
    for name, (_, path) in STORIES.items():
        chat.expand = expansion("a red boat on a lake")
        answer = await studio.post(path, {"message": "a boat"})
        assert answer.json() | {"run_id": ""} == {
            "expanded_prompt": "a red boat on a lake",
            "message_used": "a boat",
            "safety": "safe",
            "expansion": "model",
            "release": f"{name}.expand@1",
            "run_id": "",
        }
        chat.expand = expansion("a zzexplicit scene")
        assert (await studio.post(path, {"message": "a boat"})).json()["error"]["code"] == "sexual/explicit"


async def test_the_caption_stands_alone(studio: Studio) -> None:
    await studio.scripted_worker()
    answer = await studio.post("/v1/chat/1to1/caption", {"prompt": "a red boat on a lake"})
    assert answer.json() | {"run_id": ""} == {
        "caption": CAPTION,
        "caption_source": "model",
        "release": "caption@1",
        "run_id": "",
    }


CANNOT = {
    "no JSON": "A red boat.",
    "cut off": '{"intent": "a boat", "prompt": "a red',
    "another verdict": expansion("a boat", safety="maybe"),
    "no prompt": expansion(""),
    "nothing": "",
}


async def test_where_the_model_cannot_the_message_itself_is_drawn(studio: Studio) -> None:
    chat, image = await studio.scripted_worker(), await studio.drawing_worker()
    for what, chat.expand in CANNOT.items():
        told = (await studio.post(STORIES["chat1to1"][0], {"message": LONG})).json()
        assert (told["expansion"], told["prompt_used"]) == ("message", told["message_used"]), what
        assert len(told["message_used"].split()) <= 25
        assert "red sailboat" in image.received[-1]["prompt"]


async def test_a_model_that_shortens_to_something_else_is_not_believed(studio: Studio) -> None:
    chat, _ = await studio.scripted_worker(), await studio.drawing_worker()
    for intent in ("a grey cat under the table", " ".join(LONG.split()[:26]), ""):
        chat.expand = expansion("a red sailboat", intent)
        told = (await studio.post(STORIES["shorts"][0], {"message": LONG})).json()
        assert "red sailboat" in told["message_used"]
        assert told["expansion"] == "model"


# -- captions ---------------------------------------------------------------------------------------------------------

NINE = "Nine words are one too few for this caption."
SIXTEEN = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen."
UNFIT = "A dancer, quite zzsuggestive in her pose, waves to all of her friends."
CAPTIONS: dict[str, tuple[list[str], str, int]] = {
    "good at once": ([CAPTION], "model", 1),
    "too short, then good": ([NINE, CAPTION], "model", 2),
    "too long, then good": ([SIXTEEN, CAPTION], "model", 2),
    "not for everyone, then good": ([UNFIT, CAPTION], "model", 2),
    "too short twice": ([NINE, NINE, CAPTION], "fallback", 2),
    "not for everyone twice": ([UNFIT, UNFIT, CAPTION], "fallback", 2),
    "two lines": (["Some words\nand so on it goes to ten words here.", NINE], "fallback", 2),
}


async def test_captions_have_ten_to_fifteen_words_and_are_fit_for_everyone(studio: Studio) -> None:
    chat, _ = await studio.scripted_worker(), await studio.drawing_worker()
    for what, (chat.captions, source, asked) in CAPTIONS.items():
        chat.received.clear()
        told = (await studio.post(STORIES["scenes"][0], {"message": "a boat"})).json()
        assert (told["caption_source"], len(chat.asked(caption=True))) == (source, asked), what
        assert 10 <= len(told["caption"].split()) <= 15
        assert told["caption"] not in (UNFIT, NINE, SIXTEEN)
        if source == "fallback":
            assert told["releases"][-1] == "caption.fallback@1"


async def test_an_engine_that_cannot_tell_takes_nothing_from_the_picture(studio: Studio) -> None:
    chat, image = await studio.scripted_worker(), await studio.drawing_worker()

    def fails_afterwards(_: dict[str, Any]) -> str:
        chat.status = 500
        return expansion("a red boat")

    chat.expand = fails_afterwards
    told = (await studio.post(STORIES["chat1to1"][0], {"message": "a boat"})).json()
    assert (told["caption_source"], told["image_base64"]) == ("fallback", picture(0))
    alone = await studio.post("/v1/chat/1to1/caption", {"prompt": "a boat"})
    assert (alone.status_code, len(image.received)) == (502, 1)


# -- several pictures, previews, links --------------------------------------------------------------------------------


async def test_several_pictures_take_one_place(studio: Studio) -> None:
    await studio.scripted_worker()
    image = await studio.drawing_worker(capacity=1)
    told = (await studio.post(STORIES["chat1to1"][0], {"message": "a boat", "n": 3, "seed": 5})).json()
    assert [one["image_base64"] for one in told["images"]] == [picture(at) for at in range(3)]
    assert [one["seed"] for one in told["images"]] == [SEED, SEED + 1, SEED + 2]
    assert told["image_base64"] == picture(0)
    assert [(sent["n"], sent["seed"]) for sent in image.received] == [(3, 5)]


async def test_a_stream_tells_each_step_and_shows_previews(studio: Studio) -> None:
    await studio.scripted_worker()
    image = await studio.drawing_worker()
    body = {"message": "a boat", "stream": True, "partial_images": 2, "n": 2}
    events = []
    async with studio.http.stream("POST", STORIES["shorts"][0], json=body, headers=bearer(studio)) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
            if sum(event["type"].endswith("partial_image") for event in events) == 4:
                image.seen.set()  # the pictures come only when the previews were here
    kinds = [(event["type"], event.get("step") or event.get("partial_image_index")) for event in events]
    partial = "image_generation.partial_image"
    assert kinds == [
        ("pipeline.step.started", "expand"),
        ("pipeline.step.completed", "expand"),
        ("pipeline.step.started", "generate"),
        *((partial, index) for index in (0, 0, 1, 1)),
        ("pipeline.step.completed", "generate"),
        ("pipeline.step.started", "caption"),
        ("pipeline.step.completed", "caption"),
        ("pipeline.completed", None),
    ]
    assert [event["sequence_number"] for event in events] == list(range(1, len(events) + 1))
    assert {event["b64_json"] for event in events if event["type"] == partial} == {PREVIEW}
    drawn = events[7]["result"]
    assert [one["image_base64"] for one in drawn["images"]] == [picture(0), picture(1)]
    assert drawn["cost"] == {"tokens": 0, "image_steps": 8}
    assert events[1]["result"]["cost"] == {"tokens": 7, "image_steps": 0}
    assert events[-1]["image_base64"] == picture(0)
    assert events[-1]["caption"] == CAPTION


def bearer(studio: Studio) -> dict[str, str]:
    return {"authorization": f"Bearer {studio.key}"}


async def test_a_sign_of_life_is_nothing_to_the_official_client() -> None:
    async def happens() -> AsyncGenerator[Event | None, None]:
        yield None
        yield Event(1, "first", {"a": 1})
        yield None
        yield Event(2, "second", {"a": 2})

    sent = bytearray()

    async def send(message: Message) -> None:
        sent.extend(message.get("body", b""))

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {}

    kept = Blobs(MemoryStore(), b"key", Retention(60, 60, 1))
    await Events(happens(), PictureFormat(kept, "http://studio"))({"type": "http"}, receive, send)
    assert sent.count(b": ") > 2
    found = [(one.event, one.json()["a"]) for one in SSEDecoder().iter_bytes(iter([bytes(sent)]))]
    assert found == [("first", 1), ("second", 2)]


async def test_an_error_is_an_event_once_the_stream_has_begun(studio: Studio) -> None:
    await studio.scripted_worker()
    image = await studio.drawing_worker()
    image.status = 500
    answer = await studio.post(STORIES["scenes"][0], {"message": "a boat", "stream": True, "partial_images": 0})
    last = answer.text.strip().split("\n\n")[-1]
    assert "event: error" in last
    assert json.loads(last.split("data: ")[1])["error"]["code"] == "engine_failed"


async def test_a_link_instead_of_base64(studio: Studio) -> None:
    await studio.scripted_worker()
    await studio.drawing_worker()
    body = {"message": "a boat", "response_format": "url", "n": 2}
    told = (await studio.post(STORIES["chat1to1"][0], body)).json()
    assert "image_base64" not in told
    for at, url in enumerate(one["image_url"] for one in told["images"]):
        found = await studio.http.get(url)  # no key: the signature is one
        assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
        assert found.content == base64.b64decode(picture(at))
    forged = await studio.http.get(told["image_url"][:-4] + "0000")
    assert (forged.status_code, forged.json()["error"]["code"]) == (403, "invalid_signature")


async def test_one_engine_at_a_time(studio: Studio) -> None:
    chat, image = await studio.scripted_worker(), await studio.drawing_worker()
    most = 0

    def count(_: dict[str, Any]) -> str:
        nonlocal most
        most = max(most, chat.running + image.running)
        return expansion("a red boat")

    chat.expand = count
    image.held.clear()
    waiting = asyncio.ensure_future(studio.post(STORIES["chat1to1"][0], {"message": "a boat"}))
    await eventually(lambda: image.running, "the picture's start")
    assert (most, chat.running, len(chat.asked(caption=True))) == (1, 0, 0)
    image.held.set()
    assert (await waiting).status_code == 200


# -- what is asked wrongly --------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "too many": ({"n": 5}, "n"),
    "none": ({"n": 0}, "n"),
    "no size": ({"size": "big"}, "size"),
    "too many previews": ({"stream": True, "partial_images": 4}, "partial_images"),
    "previews for nobody": ({"partial_images": 1}, "partial_images"),
    "another format": ({"response_format": "jpeg"}, "response_format"),
    "an unknown field": ({"surprise": 1}, "surprise"),
}


async def test_bad_input_is_named_and_reaches_no_engine(studio: Studio) -> None:
    chat, image = await studio.scripted_worker(), await studio.drawing_worker()
    for path in (*(paths[0] for paths in STORIES.values()), *OWN_PROMPT):
        own = {"prompt": "a boat"} if path in OWN_PROMPT else {"message": "a boat"}
        for what, (fields, param) in BAD.items():
            answer = await studio.post(path, {**own, **fields})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), (what, answer.text)
        missing = await studio.post(path, {})
        assert (missing.status_code, missing.json()["error"]["param"]) == (400, next(iter(own)))
    assert (chat.received, image.received) == ([], [])


async def test_who_may_not(studio: Studio) -> None:
    for path in (*(path for paths in STORIES.values() for path in paths), *OWN_PROMPT, "/v1/chat/1to1/caption"):
        assert (await studio.post(path, {"message": "x"}, key="wrong")).status_code == 401, path
