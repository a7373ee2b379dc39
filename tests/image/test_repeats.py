"""The same call again with its Idempotency-Key: nothing is drawn twice, for nobody else, and not for ever."""

import base64
import json
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.http.idempotency import REPEATED
from image.encode import facts_of
from image.pipelines.zimage import ZImage
from tests.fakes.client import RawClient, connected, request
from tests.fakes.wait import eventually
from tests.image.asking import GENERATIONS, Headers, get, gradient, picture, post, post_form, until, until_idle, worker
from tests.image.doubles import Poisoned, Stepped

ASKED = {"prompt": "a boat", "size": "64x64", "steps": 4}
CANCEL, FIND = "/v1/images/cancel", "/v1/images/find"


def keyed(key: str = "job:generate", **more: str) -> Headers:
    named = {"idempotency-key": key, **{f"x-soundstage-{name}": value for name, value in more.items()}}
    return [(name.encode(), value.encode()) for name, value in named.items()]


def drawn(answer: Any) -> list[tuple[int, bytes]]:
    """Each picture's seed and pixels."""
    assert answer.status == 200, answer.body
    return [(one["seed"], picture(one["b64_json"]).tobytes()) for one in answer.json()["data"]]


@asynccontextmanager
async def stepped(pipeline: ZImage, folder: Path, **given: Any) -> AsyncIterator[tuple[int, Stepped]]:
    """A worker whose steps are let through one by one, and its port."""
    inside = Stepped(pipeline)
    async with worker(lambda: inside, folder, **given) as port:
        yield port, inside
        inside.permits.release(1000)


@asynccontextmanager
async def asking(port: int, headers: Headers, body: Any = ASKED) -> AsyncIterator[RawClient]:
    """Somebody whose call is on its way."""
    async with connected(port) as client:
        await client.send(request(b"POST", GENERATIONS.encode(), headers, json.dumps(body).encode()))
        yield client


def repeats(metrics: str, found: str) -> float:
    """The counter's value; the registry is the process's, whichever workers were here before."""
    counted = re.search(rf'^soundstage_image_repeats_total{{found="{found}"}} (.+)$', metrics, re.M)
    return float(counted[1]) if counted else 0.0


async def test_a_finished_call_is_given_again_in_the_name_of_who_asks(port: int) -> None:
    first = await post(port, GENERATIONS, {**ASKED, "n": 2}, keyed("again", run="run_1"))
    found = repeats((await get(port, "/metrics")).body.decode(), "finished")
    before = await steps(port)
    second = await post(port, GENERATIONS, {**ASKED, "n": 2}, keyed("again", run="run_2"))
    assert drawn(second) == drawn(first), "the seed too, which nobody named"
    assert [answer.header(REPEATED.encode()) for answer in (first, second)] == [None, b"true"]
    assert await steps(port) == before
    files = [base64.b64decode(answer.json()["data"][0]["b64_json"]) for answer in (first, second)]
    assert [facts_of(file)["run_id"] for file in files] == ["run_1", "run_2"]
    assert repeats((await get(port, "/metrics")).body.decode(), "finished") == found + 1


async def test_the_studios_own_paths_and_streams_repeat_too(port: int) -> None:
    body = {"prompt": "a boat", "width": 64, "height": 64}
    first, second = [await post(port, "/v1/chat/shorts/generate", body, keyed("own")) for _ in range(2)]
    assert [first.json()[name] for name in ("seed", "image_base64")] == [
        second.json()[name] for name in ("seed", "image_base64")
    ]
    streams = []
    for _ in range(2):
        answer = await post(port, GENERATIONS, {**ASKED, "stream": True, "partial_images": 1}, keyed("stream"))
        lines = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
        streams.append([(event["type"], event["b64_json"]) for event in map(json.loads, lines)])
    assert [name for name, _ in streams[0]] == ["image_generation.partial_image", "image_generation.completed"]
    assert streams[0] == streams[1]


async def test_a_running_call_is_joined_and_ends_with_its_last_client(pipeline: ZImage, tmp_path: Path) -> None:
    async with stepped(pipeline, tmp_path) as (port, inside):
        found = repeats((await get(port, "/metrics")).body.decode(), "running")
        async with asking(port, keyed()) as one, asking(port, keyed()) as other, asking(port, keyed()) as third:
            await eventually(lambda: inside.calls == 1, "the first step")
            await until(port, lambda text: repeats(text, "running") == found + 2)
            third.leave()
            inside.permits.release(100)
            assert drawn(await one.answer()) == drawn(await other.answer())
            assert inside.calls == 4
        inside.permits = threading.Semaphore(0)
        async with asking(port, keyed("left")) as one, asking(port, keyed("left")) as other:
            await eventually(lambda: inside.calls == 5, "its first step")
            one.leave()
            other.leave()
            await until(port, lambda text: 'soundstage_http_requests_in_flight{service="image"} 1.0' in text)
            inside.permits.release()
            assert await until_idle(port) == {"running": 0, "waiting": 0}
            assert inside.calls == 5


async def test_who_may_come_again_is_waited_for(pipeline: ZImage, tmp_path: Path) -> None:
    async with stepped(pipeline, tmp_path) as (port, inside):
        async with asking(port, keyed(wait="60")) as client:
            await eventually(lambda: inside.calls == 1, "the first step")
            client.leave()
        inside.permits.release(100)
        await until(port, lambda text: "soundstage_image_repeats_bytes 12288.0" in text)
        assert (await post(port, FIND, {}, keyed())).json() == {"found": "finished"}
        assert (await post(port, FIND, {}, keyed("other"))).json() == {"found": None}
        assert len(drawn(await post(port, GENERATIONS, ASKED, keyed(wait="60")))) == 1
        assert inside.calls == 4


async def test_who_does_not_come_again_says_so(pipeline: ZImage, tmp_path: Path) -> None:
    async with stepped(pipeline, tmp_path) as (port, inside):
        async with asking(port, keyed(wait="60")) as client:
            await eventually(lambda: inside.calls == 1, "the first step")
            client.leave()
        assert (await post(port, FIND, {}, keyed())).json() == {"found": "running"}
        assert (await post(port, CANCEL, {}, keyed(tenant="another"))).json() == {"cancelled": False}
        assert (await post(port, CANCEL, {}, keyed())).json() == {"cancelled": True}
        inside.permits.release()
        assert await until_idle(port) == {"running": 0, "waiting": 0}
        assert inside.calls == 1
        assert (await post(port, CANCEL, {}, keyed("late"))).json() == {"cancelled": False}
        refused = await post(port, GENERATIONS, ASKED, keyed("late"))  # it was on its way
        assert (refused.status, refused.error["code"]) == (503, "cancelled")
        assert (await post(port, CANCEL, {})).error["code"] == "missing"


async def test_a_key_means_one_call_of_one_tenant(port: int) -> None:
    first = await post(port, GENERATIONS, ASKED, keyed("one", tenant="a"))
    assert drawn(await post(port, GENERATIONS, ASKED, keyed("one", tenant="b"))) != drawn(first)
    for path, body in ((GENERATIONS, {**ASKED, "seed": 3}), ("/v1/chat/1to1/generate", {"prompt": "a boat"})):
        refused = await post(port, path, body, keyed("one", tenant="a"))
        assert (refused.status, refused.error["code"]) == (409, "idempotency_key_reused")
        assert refused.error["param"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        (keyed(""), "Idempotency-Key"),
        (keyed("x" * 256), "Idempotency-Key"),
        (keyed("a b"), "Idempotency-Key"),
        (keyed(wait="-1"), "x-soundstage-wait"),
        (keyed(wait="9999"), "x-soundstage-wait"),
    ],
)
async def test_a_bad_key_is_named(port: int, headers: Headers, param: str) -> None:
    refused = await post(port, GENERATIONS, ASKED, headers)
    assert (refused.status, refused.error["param"]) == (400, param)


async def steps(port: int) -> int:
    return int((await get(port, "/health")).json()["engine"]["request_steps"])


async def test_what_failed_is_tried_again(pipeline: ZImage, tmp_path: Path) -> None:
    poisoned = Poisoned(pipeline, nan_seed=1, raising_seed=2)
    async with worker(lambda: poisoned, tmp_path) as port:
        taken = []
        for _ in range(2):
            failed = await post(port, GENERATIONS, {**ASKED, "seed": 1}, keyed("nan"))
            assert failed.error["code"] == "not_finite"
            taken.append(await steps(port))
        assert taken[1] > taken[0]


async def test_what_was_made_from_a_picture_is_not_kept(port: int) -> None:
    form: list[tuple[str, str | bytes]] = [("image", gradient(64, 64)), ("prompt", "a boat"), ("seed", "3")]
    before = await steps(port)
    for number in (1, 2):
        assert (await post_form(port, form, headers=keyed("edit"))).status == 200
        assert await steps(port) == before + 2 * number
