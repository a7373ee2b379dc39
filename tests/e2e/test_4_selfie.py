"""Selfies in the real studio: analyzed, refused, made into an avatar by real models, and found nowhere afterwards."""

import asyncio
import base64
import io
import json
import os
import signal
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from PIL import Image

from tests.e2e.studio import Studio
from tests.e2e.test_5_crash import answers
from tests.fakes.canary import NAME, Canary, marked
from tests.fakes.wait import answers as becomes_true
from tests.vision.photos import ASTRONAUT, encoded, exif, photo, photo_path, png, quadrants

ANALYZE, CREATE, FACES = "/v1/profile/analyze", "/v1/profile/create", "/v1/faces"


@dataclass(frozen=True)
class Told:
    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json()["error"]["code"])


@pytest.fixture(scope="module")
def canary() -> Canary:
    return marked(photo(ASTRONAUT))


async def send(studio: Studio, path: str, picture: bytes, **fields: str) -> Told:
    """A form to the orchestrator with the studio's own key, or with `key`."""
    return await _post(f"{studio.base_url.removesuffix('/v1')}{path}", fields.pop("key", studio.key), picture, fields)


async def _post(url: str, key: str, picture: bytes, fields: dict[str, str]) -> Told:
    form = aiohttp.FormData()
    form.add_field("image", picture, filename=NAME)
    for name, value in fields.items():
        form.add_field(name, value)
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        async with session.post(url, data=form) as response:
            return Told(response.status, response.headers, await response.read())


async def test_an_analysis_is_relayed_and_recorded(studio: Studio) -> None:
    sideways = encoded(photo(ASTRONAUT).rotate(90), "JPEG", quality=95, exif=exif(orientation=6))
    told = await send(studio, ANALYZE, sideways)
    assert told.status == 200, told.body
    found = told.json()
    assert (found["face"]["found"], found["apparent_age"], found["image"]) == (
        True,
        "adult",
        {"width": 512, "height": 512},
    )
    assert {"age_bracket", "expression"} == set(found["features"])
    assert "tier=0" in told.headers["x-policy"]
    async with studio.session() as session:
        async with session.get(f"{studio.base_url}/runs/{told.headers['x-run-id']}") as response:
            run = await response.json()
    assert (run["route"], run["tier"], run["status"]) == (ANALYZE, 0, 200)


async def test_a_picture_without_a_face_is_judged_with_a_warning(studio: Studio) -> None:
    found = (await send(studio, ANALYZE, photo_path("coffee.png").read_bytes())).json()
    assert (found["face"]["found"], found["warnings"][0]["code"]) == (False, "no_face")
    assert 0 < found["face"]["quality_score"] <= 0.5


HOSTILE = {
    "no picture": (b"<html>", "unsupported_image"),
    "cut off": (photo_path(ASTRONAUT).read_bytes()[:20_000], "unreadable_image"),
    "a bomb": (png(50_000, 50_000), "image_pixels"),
    "animated": (
        encoded(quadrants(), "WEBP", save_all=True, append_images=[Image.new("RGB", (80, 60))]),
        "animated_image",
    ),
}


async def test_hostile_files_are_refused_by_name(studio: Studio) -> None:
    for name, (data, code) in HOSTILE.items():
        for path, fields in ((ANALYZE, {}), (CREATE, {"consent": "true"})):
            told = await send(studio, path, data, **fields)
            assert (told.status, told.code) == (400, code), (name, path)
            assert told.json()["error"]["param"] == "image"


async def test_the_worker_answers_boxes_to_those_with_its_key(studio: Studio) -> None:
    url = f"http://127.0.0.1:{studio.port['SELFIE_PORT']}{FACES}"
    worker_key = (studio.data / "keys" / "worker_key").read_text().strip()
    [face] = (await _post(url, worker_key, photo_path(ASTRONAUT).read_bytes(), {})).json()["faces"]
    assert face["box"]["x"] < 225 < face["box"]["x"] + face["box"]["width"]
    assert (await _post(url, studio.key, b"x", {})).status == 401


async def test_a_selfie_becomes_an_avatar_and_its_consent_is_taken_back(studio: Studio, canary: Canary) -> None:
    assert (await send(studio, CREATE, canary.data)).code == "consent_required"
    told = await send(studio, CREATE, canary.data, consent="true", style="watercolour", size="256x256", strength="1")
    assert told.status == 200, told.body
    made = told.json()
    with Image.open(io.BytesIO(base64.b64decode(made["image_base64"]))) as image:
        assert (image.format, image.size) == ("PNG", (256, 256))
        image.load()
    assert (made["tier"], made["strength_used"], made["releases"]) == (0, 0.75, ["profile.avatar@1"])
    assert made["model"].startswith("zimage-tiny")
    assert made["features"]["expression"]["value"] == "smiling"
    assert made["prompt_used"]
    assert canary.found_in(told.body) == []
    async with studio.session() as session:
        async with session.delete(f"{studio.base_url}/likenesses/{made['likeness']}") as response:
            assert (await response.json())["revoked_at"]
    refused = await send(studio, CREATE, canary.data, consent="true")
    assert (refused.status, refused.code) == (403, "likeness_revoked")


async def test_nothing_of_a_selfie_is_found_after_kill_9(studio: Studio, canary: Canary) -> None:
    """Both who hold it die while an avatar is made: the studio's whole data directory is searched afterwards."""
    other = Canary(canary.data + b"\0", canary.needles)  # the same picture, whose consent nobody took back
    async with asyncio.timeout(300):
        asked = await _caught_writing(studio, other)
    killed = [studio.service(name) for name in ("orchestrator", "vision")]
    for process in killed:
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(aiohttp.ClientError):
        await asked
    await answers(studio)
    await becomes_true(lambda: _analyzes(studio, other), "the selfie worker's return")
    for folder in ("logs", "postgres", "pictures"):
        assert list((studio.data / folder).rglob("*")), folder
        assert canary.found_below(studio.data / folder) == [], folder
    assert canary.found_in(studio.text.encode()) == []
    assert NAME not in studio.text


async def _caught_writing(studio: Studio, canary: Canary) -> "asyncio.Future[Told]":
    """An avatar under way whose prompt is being written; asked for again where that was over before it was seen."""
    while True:
        asked = asyncio.ensure_future(send(studio, CREATE, canary.data, consent="true"))
        while not asked.done():
            if await _writes(studio):
                return asked
        assert asked.result().status == 200, asked.result()


async def _writes(studio: Studio) -> bool:
    """The selfie was looked at, and the chat model writes the prompt."""
    return bool(await studio.engine_metric("vllm:num_requests_running"))


async def _analyzes(studio: Studio, canary: Canary) -> bool:
    return (await send(studio, ANALYZE, canary.data)).status == 200
