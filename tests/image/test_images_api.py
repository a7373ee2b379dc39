"""OpenAI's Images API through the official SDK, and what of it only bytes can show."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from image.encode import EDITED, GENERATED, facts_of
from image.pipelines.base import Schedule, Start
from image.pipelines.zimage import ZImage
from image.request import ImageRequest
from tests.fakes.client import Answer, connected, request
from tests.fakes.wait import eventually
from tests.image.asking import (
    EDITS,
    GENERATIONS,
    get,
    gradient,
    opened,
    picture,
    post,
    post_form,
    until,
    until_idle,
    worker,
)
from tests.image.doubles import Poisoned, Stepped, Wrapped
from tests.image.reference import Stock


@pytest.fixture
async def client(port: int) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("wanted", [0, 1, 3])
async def test_a_stream_tells_partials_in_order_and_then_the_image(client: openai.AsyncOpenAI, wanted: int) -> None:
    stream = await client.images.generate(
        prompt="a boat", size="96x64", stream=True, partial_images=wanted, extra_body={"seed": 5, "steps": 4}
    )
    events = [event async for event in stream]
    assert [e.type for e in events] == ["image_generation.partial_image"] * wanted + ["image_generation.completed"]
    assert [e.partial_image_index for e in events[:-1]] == list(range(wanted))  # type: ignore[union-attr]
    assert all(picture(e.b64_json).size == (96, 64) for e in events)
    last = events[-1]
    assert last.type == "image_generation.completed"
    assert (last.size, last.output_format, last.usage.output_tokens) == ("96x64", "png", 24)
    plain = await client.images.generate(prompt="a boat", size="96x64", extra_body={"seed": 5, "steps": 4})
    assert plain.data is not None
    assert picture(plain.data[0].b64_json or "").tobytes() == picture(last.b64_json).tobytes()


async def test_a_stream_of_several_images_tells_each_in_its_own_order(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.generate(
        prompt="a boat", size="64x64", n=3, stream=True, partial_images=2, extra_body={"seed": 5, "steps": 6}
    )
    told: dict[int, list[tuple[str, int | None]]] = {0: [], 1: [], 2: []}
    finals: dict[int, bytes] = {}
    async for event in stream:
        extra = event.model_extra or {}
        index = getattr(event, "partial_image_index", None)
        told[extra["image_index"]].append((event.type.removeprefix("image_generation."), index))
        if event.type == "image_generation.completed":
            finals[extra["seed"]] = picture(event.b64_json).tobytes()
            assert (event.usage.output_tokens, extra["steps"]) == (16, 6)  # its own
    expected = [("partial_image", 0), ("partial_image", 1), ("completed", None)]
    assert told == {0: expected, 1: expected, 2: expected}
    plain = await client.images.generate(prompt="a boat", size="64x64", n=3, extra_body={"seed": 5, "steps": 6})
    assert plain.data is not None
    for d in plain.data:
        got = finals[(d.model_extra or {})["seed"]]
        assert max(abs(a - b) for a, b in zip(got, picture(d.b64_json or "").tobytes(), strict=True)) <= 1


async def test_one_that_fails_does_not_end_the_others_of_its_stream(pipeline: ZImage, tmp_path: Path) -> None:
    class Spoiling(Wrapped):
        def start(self, request: ImageRequest, schedule: Schedule) -> Start:
            start = super().start(request, schedule)
            return Start(start.latents * float("nan")) if request.seed == 2 else start

    async with worker(lambda: Spoiling(pipeline), tmp_path) as port:
        answer = await post(port, GENERATIONS, {"prompt": "x", "seed": 1, "n": 3, "stream": True})
    kinds = [line for line in answer.body.split(b"\n") if line.startswith(b"event: ")]
    assert kinds == [b"event: image_generation.completed"] * 2 + [b"event: error"]


async def test_partials_come_closer_to_the_image(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.generate(
        prompt="a boat", size="64x64", stream=True, partial_images=3, extra_body={"seed": 5, "steps": 8}
    )
    *partials, last = [picture(event.b64_json).tobytes() async for event in stream]
    assert len({*partials, last}) == 4


async def test_edits_stream_too(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.edit(
        image=("photo.png", gradient(64, 48)), prompt="a boat", stream=True, partial_images=1, extra_body={"steps": 4}
    )
    assert [event.type async for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


async def test_an_edit_takes_the_pictures_size_and_its_share_of_steps(client: openai.AsyncOpenAI) -> None:
    answer = await client.images.edit(
        image=[("a.png", gradient(70, 100))],  # an array of one, as `image[]`
        prompt="a boat",
        n=2,
        extra_body={"strength": 0.5, "steps": 8, "seed": 3},
    )
    assert answer.data is not None
    assert [picture(d.b64_json or "").size for d in answer.data] == [(64, 96)] * 2
    assert (answer.size, answer.model_extra and answer.model_extra["steps"]) == ("64x96", 4)
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.image_tokens == 2 * 4 * 6
    marks = facts_of(base64.b64decode(answer.data[0].b64_json or ""))
    assert (marks["digital_source_type"], marks["steps"]) == (EDITED, "4")


async def test_an_edit_equals_the_stock_pipeline(port: int, stock: Stock) -> None:
    fields: list[tuple[str, str | bytes]] = [("prompt", "a boat"), ("seed", "9"), ("steps", "5")]
    image = gradient(96, 64)
    plain = await post_form(port, [*fields, ("image", image), ("strength", "0.6")])
    expected = stock.edited(ImageRequest("a boat", 96, 64, 5, 9), image, 0.6)
    assert _apart(plain, expected) <= 1
    mask = gradient(96, 64, mask_from=48)
    masked = await post_form(port, [*fields, ("image", image), ("mask", mask)])
    assert _apart(masked, stock.edited(ImageRequest("a boat", 96, 64, 5, 9), image, 1.0, mask)) <= 1


def _apart(answer: Answer, expected: bytes) -> int:
    got = picture(answer.json()["data"][0]["b64_json"]).tobytes()
    return max(abs(a - b) for a, b in zip(got, expected, strict=True))


PNG = gradient(64, 64)
BAD_FORMS: list[tuple[list[tuple[str, str | bytes]], str]] = [
    ([("prompt", "x")], "image"),
    ([("image", PNG)], "prompt"),
    ([("image", PNG), ("image", PNG), ("prompt", "x")], "image"),
    ([*[("image[]", PNG)] * 17, ("prompt", "x")], "image"),
    ([("image", b"no picture"), ("prompt", "x")], "image"),
    ([("image", PNG[:60]), ("prompt", "x")], "image"),
    ([("image", b"GIF89a" + PNG), ("prompt", "x")], "image"),
    ([("image", PNG), ("mask", gradient(64, 48, mask_from=3)), ("prompt", "x")], "mask"),
    ([("image", PNG), ("mask", PNG), ("prompt", "x")], "mask"),
    ([("image", PNG), ("mask", b"?"), ("prompt", "x")], "mask"),
    ([("image", PNG), ("prompt", "x"), ("strength", "0")], "strength"),
    ([("image", PNG), ("prompt", "x"), ("strength", "1.5")], "strength"),
    ([("image", PNG), ("prompt", "x"), ("n", "two")], "n"),
    ([("image", PNG), ("prompt", "x"), ("size", "100x100")], "size"),
    ([("image", PNG), ("prompt", "x"), ("prompt", "y")], "prompt"),
    ([("image", PNG), ("prompt", "x"), ("input_fidelity", "high")], "input_fidelity"),
]


@pytest.mark.parametrize(("parts", "param"), BAD_FORMS, ids=range(len(BAD_FORMS)))
async def test_a_bad_edit_is_a_400_that_names_the_parameter(
    port: int, parts: list[tuple[str, str | bytes]], param: str
) -> None:
    answer = await post_form(port, parts)
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_an_edit_must_be_a_form(port: int) -> None:
    assert (await post(port, EDITS, {"prompt": "x"})).error["code"] == "invalid_content_type"
    broken = [(b"content-type", b"multipart/form-data; boundary=b")]
    assert (await post(port, EDITS, b"--other\r\n\r\n", broken)).error["code"] == "invalid_multipart"


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
async def test_formats_carry_their_marks(port: int, format: str) -> None:
    headers = [(b"x-soundstage-release", b"rel-7"), (b"x-soundstage-run", b"run-9")]
    asked = {"prompt": "a façade 🚤", "seed": 1, "output_format": format}
    told = (await post(port, GENERATIONS, asked, headers)).json()
    assert told["output_format"] == format
    file = base64.b64decode(told["data"][0]["b64_json"])
    assert opened(file).format == format.upper()
    expected = {
        "Software": "Soundstage",
        "model": "zimage-tiny-untrained",
        "seed": "1",
        "size": "64x64",
        "steps": "2",
        "release": "rel-7",
        "run_id": "run-9",
        "digital_source_type": GENERATED,
        "xmp_digital_source_type": GENERATED,
    }
    assert facts_of(file) == expected
    with_prompt = (await post(port, GENERATIONS, asked | {"prompt_in_metadata": True}, headers)).json()
    assert facts_of(base64.b64decode(with_prompt["data"][0]["b64_json"])) == expected | {"prompt": "a façade 🚤"}


async def test_compression_makes_smaller_files(port: int) -> None:
    sizes = []
    for compression in (5, 95):
        asked = {"prompt": "x", "seed": 1, "output_format": "jpeg", "output_compression": compression}
        sizes.append(len((await post(port, GENERATIONS, asked)).json()["data"][0]["b64_json"]))
    assert sizes[0] < sizes[1]


async def test_links_are_signed_and_expire(pipeline: ZImage, tmp_path: Path) -> None:
    async with worker(lambda: pipeline, tmp_path, wan_worker_api_key="k1") as port:
        key = [(b"authorization", b"Bearer k1")]
        asked = {"prompt": "x", "response_format": "url", "output_format": "webp", "seed": 1}
        url = (await post(port, GENERATIONS, asked, key)).json()["data"][0]["url"]
        path = url.split("soundstage.test", 1)[1]
        answer = await get(port, path)  # without the key: the link is one
        assert (answer.status, answer.header(b"content-type")) == (200, b"image/webp")
        assert opened(answer.body).size == (64, 64)
        assert (await get(port, path[:-1] + ("0" if path[-1] != "0" else "1"))).error["code"] == "invalid_signature"
        later = path.replace("expires=", "expires=9")
        assert (await get(port, later)).error["code"] == "invalid_signature"
        assert (await get(port, path.split("?")[0])).status == 403
        assert (await get(port, "/v1/images/files/..%2f..%2fkeys%2fimage-links?expires=1&signature=x")).status in (
            403,
            404,
        )
        assert (await get(port, "/v1/models")).status == 401


async def test_a_request_is_found_by_its_id(pipeline: ZImage, tmp_path: Path) -> None:
    stepped = Stepped(pipeline)
    async with worker(lambda: stepped, tmp_path, image_residents=1) as port, connected(port) as a, connected(port) as b:
        asked = json.dumps({"prompt": "x", "steps": 4}).encode()
        for client, id in ((a, b"first"), (b, b"second")):
            await client.send(request(b"POST", GENERATIONS.encode(), [(b"x-request-id", id)], asked))
            if id == b"first":
                await eventually(lambda: stepped.calls == 1, "the first step's start")
        stepped.permits.release(2)
        await eventually(lambda: stepped.calls == 3, "the third step's start")
        first = (await get(port, "/v1/images/requests/first")).json()
        second = (await get(port, "/v1/images/requests/second")).json()
        assert (first["status"], first["progress"], first["queue_position"]) == ("running", 0.5, None)
        assert (second["status"], second["progress"], second["queue_position"]) == ("queued", 0.0, 0)
        reasons = (await get(port, "/debug/scheduler")).json()["zimage-tiny-untrained"]["reasons"]
        verdicts = [(told["images"][0]["image"], verdict) for told, verdict in ((first, "leads"), (second, "no slot"))]
        assert [(r["image"], r["verdict"]) for r in reasons] == verdicts
        metrics = (await get(port, "/metrics")).body.decode()
        assert 'soundstage_image_progress{model="zimage-tiny-untrained"} 0.25' in metrics  # 2 of 8 steps
        assert 'soundstage_image_queue_position_bucket{le="0.0",model="zimage-tiny-untrained"}' in metrics
        stepped.permits.release(20)
        assert (await a.answer()).status == (await b.answer()).status == 200
        assert (await get(port, "/v1/images/requests/first")).json()["status"] == "completed"
        assert (await get(port, "/v1/images/requests/other")).error["code"] == "request_not_found"


async def test_leaving_a_stream_frees_the_engine_within_a_step(pipeline: ZImage, tmp_path: Path) -> None:
    stepped = Stepped(pipeline)
    async with worker(lambda: stepped, tmp_path) as port:
        async with connected(port) as client:
            asked = {"prompt": "x", "steps": 50, "stream": True}
            await client.send(request(b"POST", GENERATIONS.encode(), [], json.dumps(asked).encode()))
            assert (await client.head()).header(b"content-type") == b"text/event-stream; charset=utf-8"
            assert await client.chunk() == b": running\n\n"
            stepped.permits.release(2)
            await eventually(lambda: stepped.calls == 3, "the third step's start")
            client.leave()
        await until(port, lambda text: 'soundstage_http_requests_in_flight{service="image"} 1.0' in text)
        stepped.permits.release()
        assert await until_idle(port) == {"running": 0, "waiting": 0}
        assert stepped.calls == 3


async def test_an_error_after_the_first_event_is_an_event(pipeline: ZImage, tmp_path: Path) -> None:
    poisoned = Poisoned(pipeline, nan_seed=1, raising_seed=2)
    async with worker(lambda: poisoned, tmp_path) as port:
        answer = await post(port, GENERATIONS, {"prompt": "x", "seed": 1, "stream": True})
        assert (answer.status, answer.whole) == (200, True)
        assert b"event: error\ndata: " in answer.body
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
            stream = await client.images.generate(prompt="x", stream=True, extra_body={"seed": 1})
            with pytest.raises(openai.APIError, match="not finite"):
                [event async for event in stream]
            with pytest.raises(openai.BadRequestError):  # before the first event it is a status
                await client.images.generate(prompt="word " * 1000, stream=True)
