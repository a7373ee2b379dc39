"""The worker behind a real server, as its callers see it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import FastAPI, Request

from image.app import create_app
from image.encode import GENERATED
from image.pipelines.zimage import ZImage
from image.request import ImageRequest
from image.routes.roles import WORKER_PATHS
from tests.fakes.client import connected, request
from tests.fakes.orchestrator import Orchestrator, listening
from tests.fakes.serving import serving
from tests.fakes.wait import eventually, soon
from tests.image.asking import GENERATIONS, get, picture, post, ready, settings, until, until_idle, worker
from tests.image.doubles import Poisoned, Stepped
from tests.image.reference import Stock
from training.untrained import MODEL


async def test_generate_is_stock_pixels_with_their_origin(port: int, stock: Stock) -> None:
    prompt = "  a façade,\nas sent  "
    headers = [(b"x-soundstage-release", b"rel-7"), (b"x-soundstage-run", b"run-9")]
    body = {"prompt": prompt, "size": "96x64", "seed": 11, "steps": 3, "n": 2, "model": "zimage-tiny-untrained"}
    answer = await post(port, GENERATIONS, body, headers)
    assert answer.status == 200
    told = answer.json()
    sha = hashlib.sha256(prompt.encode()).hexdigest()
    assert told["prompt_sha256"] == sha
    assert answer.header(b"x-prompt-sha256") == sha.encode()
    assert [d["seed"] for d in told["data"]] == [11, 12]
    assert (told["size"], told["steps"], told["output_format"]) == ("96x64", 3, "png")
    assert told["usage"]["output_tokens"] == 2 * 6 * 4
    for d in told["data"]:
        image = picture(d["b64_json"])
        expected = stock.rgb(ImageRequest(prompt, 96, 64, 3, d["seed"]))
        assert max(abs(a - b) for a, b in zip(image.tobytes(), expected, strict=True)) <= 1
        marks = dict(image.text)  # type: ignore[attr-defined]
        assert GENERATED in marks.pop("XML:com.adobe.xmp")
        assert marks == {
            "Software": "Soundstage",
            "model": "zimage-tiny-untrained",
            "seed": str(d["seed"]),
            "size": "96x64",
            "steps": "3",
            "release": "rel-7",
            "run_id": "run-9",
            "digital_source_type": GENERATED,
        }


@pytest.mark.parametrize("path", WORKER_PATHS)
async def test_worker_paths(port: int, path: str) -> None:
    body = {"prompt": "a boat", "negative_prompt": "fog", "width": 80, "height": 64, "steps": 1, "seed": 3}
    told = (await post(port, path, body)).json()
    assert picture(told.pop("image_base64")).size == (80, 64)
    assert told.pop("generation_time") >= 0
    assert told == {
        "seed": 3,
        "width": 80,
        "height": 64,
        "steps": 1,
        "guidance": 0.0,
        "negative_prompt_used": False,
        "model": "zimage-tiny-untrained",
        "prompt_sha256": hashlib.sha256(b"a boat").hexdigest(),
    }
    guided = (await post(port, path, body | {"guidance": 2})).json()
    assert guided["negative_prompt_used"] is True


async def test_the_openai_sdk(port: int) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
        assert [m.id async for m in client.models.list()] == ["zimage-tiny-untrained"]
        answer = await client.images.generate(
            prompt="a boat",
            size="64x64",
            quality="low",
            extra_body={"seed": 4, "guidance": 3.0, "negative_prompt": "fog"},
        )
        assert answer.data is not None
        assert picture(answer.data[0].b64_json or "").size == (64, 64)
        with pytest.raises(openai.NotFoundError) as missing:
            await client.images.generate(prompt="a boat", model="other")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await client.images.generate(prompt="a boat", style="vivid")
        assert bad.value.param == "style"


BAD = [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b'{"prompt": "\\ud800"}', None),
    (b'{"prompt": "\xff"}', None),
    ({}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": ["x"]}, "prompt"),
    ({"prompt": "x" * 32_001}, "prompt"),
    ({"prompt": "word " * 1000}, "prompt"),
    ({"prompt": "x", "size": "65x64"}, "size"),
    ({"prompt": "x", "size": "64"}, "size"),
    ({"prompt": "x", "size": "64X64"}, "size"),
    ({"prompt": "x", "size": "-64x64"}, "size"),
    ({"prompt": "x", "size": "0x0"}, "size"),
    ({"prompt": "x", "size": "٦٤x٦٤"}, "size"),
    ({"prompt": "x", "size": "99999999999x64"}, "size"),
    ({"prompt": "x", "size": "4096x4096"}, "size"),
    ({"prompt": "x", "size": 64}, "size"),
    ({"prompt": "x", "n": 0}, "n"),
    ({"prompt": "x", "n": 11}, "n"),
    ({"prompt": "x", "n": "2"}, "n"),
    ({"prompt": "x", "n": True}, "n"),
    ({"prompt": "x", "steps": 0}, "steps"),
    ({"prompt": "x", "steps": 101}, "steps"),
    ({"prompt": "x", "steps": 1.5}, "steps"),
    ({"prompt": "x", "seed": -1}, "seed"),
    ({"prompt": "x", "seed": 2**63}, "seed"),
    ({"prompt": "x", "seed": 2**63 - 1, "n": 2}, "seed"),
    ({"prompt": "x", "guidance": -1}, "guidance"),
    (b'{"prompt": "x", "guidance": NaN}', "guidance"),
    (b'{"prompt": "x", "guidance": 1e999}', "guidance"),
    ({"prompt": "x", "negative_prompt": "y"}, "negative_prompt"),
    ({"prompt": "x", "quality": "best"}, "quality"),
    ({"prompt": "x", "quality": "high", "steps": 4}, "quality"),
    ({"prompt": "x", "background": "transparent"}, "background"),
    ({"prompt": "x", "output_format": "tiff"}, "output_format"),
    ({"prompt": "x", "output_compression": 50}, "output_compression"),
    ({"prompt": "x", "output_format": "webp", "output_compression": 101}, "output_compression"),
    ({"prompt": "x", "response_format": "url", "stream": True}, "response_format"),
    ({"prompt": "x", "response_format": "file"}, "response_format"),
    ({"prompt": "x", "partial_images": 4, "stream": True}, "partial_images"),
    ({"prompt": "x", "partial_images": 1}, "partial_images"),
    ({"prompt": "x", "stream": True, "n": 11}, "n"),
    ({"prompt": "x", "stream": "yes"}, "stream"),
    ({"prompt": "x", "strength": 0.5}, "strength"),
    ({"prompt": "x", "exact": 1}, "exact"),
    ({"prompt": "x", "lora": "../secret"}, "lora"),
    ({"prompt": "x", "moderation": "low"}, "moderation"),
    ({"prompt": "x", "style": "vivid"}, "style"),
    ({"prompt": "x", "anything": None}, "anything"),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=range(len(BAD)))
async def test_bad_input_is_a_400_that_names_the_parameter(port: int, body: Any, param: str | None) -> None:
    answer = await post(port, GENERATIONS, body)
    assert answer.status == 400
    assert answer.error["param"] == param
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x", "width": 63}, "width"),
        ({"prompt": "x", "height": 8192}, "height"),
        ({"size": "64x64"}, "prompt"),
    ],
)
async def test_worker_paths_name_their_own_parameters(port: int, body: Any, param: str) -> None:
    assert (await post(port, WORKER_PATHS[0], body)).error["param"] == param


async def test_other_ways_to_be_wrong(port: int) -> None:
    assert (await post(port, GENERATIONS, {"prompt": "x", "model": "other"})).status == 404
    assert (await get(port, GENERATIONS)).status == 405
    assert (await get(port, "/v1/models/other")).error["code"] == "model_not_found"
    assert (await get(port, "/v1/models/zimage-tiny-untrained")).json()["object"] == "model"
    long = [(b"x-soundstage-run", b"r" * 201)]
    assert (await post(port, GENERATIONS, {"prompt": "x"}, long)).error["param"] == "x-soundstage-run"


async def test_a_key_is_asked_for_where_one_is_set(pipeline: ZImage, tmp_path: Path) -> None:
    async with worker(lambda: pipeline, tmp_path, wan_worker_api_key="k1") as port:
        assert (await post(port, GENERATIONS, {"prompt": "x"})).status == 401
        assert (await post(port, GENERATIONS, {"prompt": "x"}, [(b"authorization", b"Bearer k1")])).status == 200


async def test_a_failing_image_is_an_error_without_its_inside(pipeline: ZImage, tmp_path: Path) -> None:
    poisoned = Poisoned(pipeline, nan_seed=1, raising_seed=2)
    async with worker(lambda: poisoned, tmp_path) as port:
        nan = await post(port, GENERATIONS, {"prompt": "x", "seed": 1})
        raising = await post(port, GENERATIONS, {"prompt": "x", "seed": 2})
        assert (nan.status, nan.error["code"]) == (500, "not_finite")
        assert (raising.status, raising.error["code"]) == (500, "internal_error")
        assert b"refuses" not in raising.body


async def test_a_client_that_leaves_frees_the_engine_within_a_step(pipeline: ZImage, tmp_path: Path) -> None:
    stepped = Stepped(pipeline)
    async with worker(lambda: stepped, tmp_path) as port:
        async with connected(port) as client:
            body = json.dumps({"prompt": "x", "steps": 50}).encode()
            await client.send(request(b"POST", GENERATIONS.encode(), [], body))
            stepped.permits.release(2)
            await eventually(lambda: stepped.calls == 3, "the third step's start")
            client.leave()
        await until(port, lambda text: 'soundstage_http_requests_in_flight{service="image"} 1.0' in text)
        stepped.permits.release()  # the step that was running ends
        assert await until_idle(port) == {"running": 0, "waiting": 0}
        assert stepped.calls == 3


async def test_a_full_queue_is_429_with_retry_after_and_takes_no_part_of_a_request(
    pipeline: ZImage, tmp_path: Path
) -> None:
    stepped = Stepped(pipeline)
    tight = worker(lambda: stepped, tmp_path, image_queue_max=2, image_residents=1)
    async with tight as port, connected(port) as first:
        body = json.dumps({"prompt": "x", "steps": 50}).encode()
        await first.send(request(b"POST", GENERATIONS.encode(), [], body))
        await eventually(lambda: stepped.calls == 1, "the first step's start")
        full = await post(port, GENERATIONS, {"prompt": "x", "n": 2})
        assert (full.status, full.error["type"], full.error["code"]) == (429, "rate_limit_error", "queue_full")
        assert int(full.header(b"retry-after") or b"") >= 1
        async with connected(port) as second:  # there was room for one
            await second.send(request(b"POST", GENERATIONS.encode(), [], b'{"prompt": "x"}'))
            await until(
                port,
                lambda text: 'soundstage_image_requests{model="zimage-tiny-untrained",state="waiting"} 1.0' in text,
            )
            first.leave()
            await until(port, lambda text: 'soundstage_http_requests_in_flight{service="image"} 2.0' in text)
            stepped.permits.release(20)
            assert (await second.answer()).status == 200


async def test_drain_ends_what_is_here_and_takes_nothing_more(pipeline: ZImage, tmp_path: Path) -> None:
    stepped, key = Stepped(pipeline), [(b"authorization", b"Bearer k1")]
    peer = Orchestrator()
    async with listening(peer):
        draining = worker(lambda: stepped, tmp_path, wan_worker_api_key="k1", orchestrator_url=peer.url)
        async with draining as port, connected(port) as client:
            body = json.dumps({"prompt": "x", "steps": 3}).encode()
            await client.send(request(b"POST", GENERATIONS.encode(), key, body))
            await eventually(lambda: stepped.calls == 1, "the first step's start")
            assert (await post(port, "/drain", b"")).status == 401
            told = await post(port, "/drain", b"", key)
            assert (told.status, told.json()["draining"], told.json()["running"]) == (202, True, 1)
            refused = await post(port, GENERATIONS, {"prompt": "x"}, key)
            assert (refused.status, refused.error["code"], refused.header(b"retry-after")) == (503, "draining", b"1")
            assert (await get(port, "/readyz")).status == 503
            assert (await get(port, "/healthz")).status == 200
            assert (await get(port, "/health")).json()["status"] == "draining"
            said: dict[str, Any] = {}
            while not said.get("draining"):
                said = json.loads((await soon(peer.heard.get())).said)
            assert said["ready"] is False
            stepped.permits.release(3)
            assert (await client.answer()).status == 200


async def test_not_ready_until_the_model_is(pipeline: ZImage, tmp_path: Path) -> None:
    import threading

    loaded = threading.Event()

    def load() -> ZImage:
        assert loaded.wait(20)
        return pipeline

    async with serving(create_app(settings(tmp_path), {MODEL: load})) as port:
        assert (await get(port, "/healthz")).status == 200
        assert (await get(port, "/readyz")).status == 503
        assert (await get(port, "/health")).json()["model_loaded"] is False
        early = await post(port, GENERATIONS, {"prompt": "x"})
        assert (early.status, early.error["code"], early.header(b"retry-after")) == (503, "not_ready", b"2")
        loaded.set()
        await ready(port)
        assert (await post(port, GENERATIONS, {"prompt": "x"})).status == 200


async def test_a_model_that_cannot_be_loaded_is_reported(tmp_path: Path) -> None:
    told: list[str] = []

    def load() -> ZImage:
        raise OSError("no such checkpoint")

    async with serving(
        create_app(settings(tmp_path), {MODEL: load}, on_load_failure=lambda: told.append("failed"))
    ) as port:
        await eventually(lambda: told)
        assert (await get(port, "/readyz")).status == 503


async def test_it_announces_itself(pipeline: ZImage, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    orchestrator = FastAPI()

    @orchestrator.post("/v1/workers")
    async def announce(http: Request) -> dict[str, Any]:
        heard.append(await http.json())
        return {"id": heard[-1]["id"], "lease_seconds": 30, "heartbeat_seconds": 10}

    @orchestrator.delete("/v1/workers/{id}")
    async def leave(id: str) -> None:
        heard.append({"left": id})

    async with serving(orchestrator) as at:
        configured = settings(
            tmp_path, orchestrator_url=f"http://127.0.0.1:{at}", image_roles="shorts,scenes", port=8006
        )
        async with serving(create_app(configured, {MODEL: lambda: pipeline})):
            await eventually(lambda: heard and heard[-1]["ready"], "an announcement that it is ready")
            last = heard[-1]
            assert last["kind"] == "image"
            assert last["roles"] == ["shorts", "scenes"]
            assert (last["capacity"], last["queue_depth"]) == (configured.image_queue_max, 0)
            assert last["url"] == "http://127.0.0.1:8006/"
            assert last["models"][0]["id"] == "zimage-tiny-untrained"
        assert heard[-1] == {"left": last["id"]}
