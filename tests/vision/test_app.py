"""The worker over HTTP: answers, refusals, the bound on its queue, and what happens when a client leaves."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.types import Message, Receive, Scope, Send

from core.http.shell import Shell, send_json
from tests.fakes.client import RawClient, ask, connected, request
from tests.fakes.serving import serving
from tests.fakes.wait import eventually
from tests.vision.doubles import GatedDetector, eye_of, in_process
from tests.vision.photos import ASTRONAUT, encoded, exif, multipart, photo, photo_path, png, quadrants
from vision.app import create_app
from vision.faces.base import Detector, Face
from vision.pixels import Pixels
from vision.settings import VisionSettings

ANALYZE, FACES = b"/v1/profile/analyze", b"/v1/faces"
MULTIPART = (b"content-type", b"multipart/form-data; boundary=soundstage")
FACE_PHOTO = photo_path(ASTRONAUT).read_bytes()


def upload(*fields: tuple[str, str | None, bytes], path: bytes = ANALYZE) -> bytes:
    return request(b"POST", path, [MULTIPART], multipart(*fields))


def image(data: bytes = FACE_PHOTO, path: bytes = ANALYZE) -> bytes:
    return upload(("image", "selfie.jpg", data), path=path)


async def test_a_selfie_is_analyzed(worker: int) -> None:
    answer = await ask(worker, image())
    assert answer.status == 200
    body = answer.json()
    told = {"features", "face", "image", "apparent_age", "vision_model", "warnings", "portrait", "usage"}
    assert set(body) == told
    face = body["face"]
    assert (face["found"], body["warnings"], face["others"]) == (True, [], [])
    assert [body[name] for name in ("apparent_age", "vision_model", "portrait", "usage")] == ["adult", None, None, None]
    assert {name: (one["value"], one["source"]) for name, one in body["features"].items()} == {
        "age_bracket": ("18 to 29", "age-v1"),
        "expression": ("smiling", "fer-quantized"),
    }
    assert all(0.5 < one["confidence"] <= 1 for one in body["features"].values())
    assert body["image"] == {"width": 512, "height": 512}
    box = face["box"]
    assert box["x"] < 225 < box["x"] + box["width"]
    assert box["y"] < 118 < box["y"] + box["height"]
    scores = (
        "score",
        "quality_score",
        "sharpness",
        "brightness",
        "exposure",
        "size",
        "pose",
        "visibility",
        "compression",
    )
    assert all(0 < face[name] <= 1 for name in scores)


async def test_a_picture_without_a_face_is_judged_with_a_warning(worker: int) -> None:
    answer = await ask(worker, image(photo_path("coffee.png").read_bytes()))
    assert answer.status == 200
    body = answer.json()
    assert (body["face"]["found"], body["face"]["box"]) == (False, None)
    assert 0 < body["face"]["quality_score"] <= 0.5
    assert [warning["code"] for warning in body["warnings"]] == ["no_face"]


async def test_boxes_are_in_pixels_of_the_upright_photo_as_sent(worker: int) -> None:
    stored = photo(ASTRONAUT).resize((1700, 1700)).rotate(90)  # lies on its side
    sent = encoded(stored, "JPEG", exif=exif(orientation=6))
    straight = (await ask(worker, image(path=FACES))).json()["faces"][0]["box"]
    turned = (await ask(worker, image(sent, path=FACES))).json()
    assert turned["image"] == {"width": 1700, "height": 1700}
    for name, value in turned["faces"][0]["box"].items():
        assert value == pytest.approx(straight[name] * 1700 / 512, abs=25)


async def test_faces_answers_boxes_only(worker: int) -> None:
    body = (await ask(worker, image(path=FACES))).json()
    assert set(body) == {"faces", "image"}
    assert [set(face) for face in body["faces"]] == [{"box", "score"}]
    assert (await ask(worker, image(encoded(quadrants()), path=FACES))).json()["faces"] == []


SOUND = ("image", "a.jpg", FACE_PHOTO)
BAD_FIELDS: dict[str, tuple[tuple[tuple[str, str | None, bytes], ...], str | None, str]] = {
    "no field": ((), "image", "missing"),
    "another field": ((("photo", "a.jpg", FACE_PHOTO),), "photo", "unknown_parameter"),
    "text for a file": ((("image", None, b"data:image/png;base64,AAAA"),), "image", "not_a_file"),
    "two images": ((SOUND, SOUND), "image", "duplicate_field"),
    "an empty file": ((("image", "a.jpg", b""),), "image", "empty_image"),
    "no picture": ((("image", "a.jpg", b"<html>"),), "image", "unsupported_image"),
    "damaged": ((("image", "a.png", FACE_PHOTO[:9000]),), "image", "unreadable_image"),
    "too many pixels": ((("image", "a.png", png(3000, 3000)),), "image", "image_pixels"),
    "unknown beside the image": ((SOUND, ("style", None, b"noir")), "style", "unknown_parameter"),
    "many files": ((SOUND,) + (("image", "b.png", b"x"),) * 10, "image", "duplicate_field"),
}


@pytest.mark.parametrize("path", [ANALYZE, FACES])
@pytest.mark.parametrize("name", BAD_FIELDS)
async def test_bad_fields_are_named(worker: int, name: str, path: bytes) -> None:
    fields, param, code = BAD_FIELDS[name]
    answer = await ask(worker, upload(*fields, path=path))
    assert answer.status == 400
    assert (answer.error["param"], answer.error["code"]) == (param, code)
    assert answer.error["type"] == "invalid_request_error"


BODY = multipart(SOUND)
BAD_BODIES = {
    "json": ([(b"content-type", b"application/json")], b"{}", "invalid_content_type"),
    "no content type": ([], BODY, "invalid_content_type"),
    "a form": ([(b"content-type", b"application/x-www-form-urlencoded")], b"image=1", "invalid_content_type"),
    "no boundary": ([(b"content-type", b"multipart/form-data")], BODY, "invalid_content_type"),
    "another boundary": ([(b"content-type", b"multipart/form-data; boundary=x")], BODY, "invalid_multipart"),
    "no body": ([MULTIPART], b"", "missing"),
    "cut off": ([MULTIPART], BODY[:5000], "invalid_multipart"),
    "cut off in its header": ([MULTIPART], BODY[:30], "missing"),
    "unknown charset": ([(b"content-type", b"multipart/form-data; charset=x; boundary=x")], BODY, "invalid_multipart"),
    "a boundary of 5000 bytes": (
        [(b"content-type", b"multipart/form-data; boundary=" + b"x" * 5000)],
        BODY,
        "invalid_content_type",
    ),
    "no name": ([MULTIPART], b"--soundstage\r\nContent-Disposition: form-data\r\n\r\nx", "invalid_multipart"),
    "no headers": ([MULTIPART], b"--soundstage\r\n\r\nx", "invalid_multipart"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_bodies_are_refused(worker: int, name: str) -> None:
    headers, body, code = BAD_BODIES[name]
    answer = await ask(worker, request(b"POST", ANALYZE, headers, body))
    assert (answer.status, answer.error["code"]) == (400, code)


@pytest.mark.parametrize(("size", "code"), [((2 << 20) + 1, "image_bytes"), (4 << 20, "body_too_large")])
async def test_too_many_bytes_are_413(worker: int, size: int, code: str) -> None:
    answer = await ask(worker, image(bytes(size)))
    assert (answer.status, answer.error["code"]) == (413, code)


async def test_an_upload_that_never_ends_is_refused(detector: Any) -> None:
    settings = VisionSettings.load(orchestrator_url=None, upload_seconds=0.05)
    async with serving(app_of(settings, detector)) as port, connected(port) as client:
        await client.send(image()[:3000])
        answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (408, "upload_timeout")


async def test_health_readiness_and_metrics(worker: int) -> None:
    health = await ask(worker, request(target=b"/health"))
    assert health.json() == {
        "status": "ok",
        "worker_type": "selfie",
        "detector": "blazeface-full-range",
        "vision_model": None,
        "places": {"taken": 0, "capacity": 10},
    }
    assert (await ask(worker, request(target=b"/healthz"))).status == 200
    assert (await ask(worker, request(target=b"/readyz"))).json() == {"ready": True, "detector": "blazeface-full-range"}
    exported = (await ask(worker, request(target=b"/metrics"))).body
    assert b"soundstage_vision_work_seconds_count" in exported


async def test_wrong_methods_and_paths(worker: int) -> None:
    assert (await ask(worker, request(target=ANALYZE))).error["code"] == "method_not_allowed"
    assert (await ask(worker, request(b"POST", b"/v1/profile", [MULTIPART], BODY))).error["code"] == "not_found"


def app_of(settings: VisionSettings, detector: Detector) -> Shell:
    return create_app(settings, eye_of(detector), in_process(settings))


async def places_taken(port: int) -> int:
    taken: int = (await ask(port, request(target=b"/health"))).json()["places"]["taken"]
    return taken


async def sent(stack: AsyncExitStack, port: int) -> RawClient:
    client = await stack.enter_async_context(connected(port))
    await client.send(image())
    return client


async def until_taken(port: int, count: int) -> None:
    async with asyncio.timeout(90):
        while await places_taken(port) != count:
            pass


async def test_a_full_queue_is_429_and_those_in_it_are_answered() -> None:
    detector = GatedDetector()
    settings = VisionSettings.load(orchestrator_url=None, vision_threads=1, vision_queue_max=2)
    async with serving(app_of(settings, detector)) as port, AsyncExitStack() as stack:
        clients = [await sent(stack, port) for _ in range(3)]
        await until_taken(port, 3)
        refused = await ask(port, image())
        assert (refused.status, refused.error["type"], refused.error["code"]) == (429, "rate_limit_error", "queue_full")
        assert int(refused.header(b"retry-after") or 0) >= 1
        detector.gate.set()
        assert [(await client.answer()).status for client in clients] == [200, 200, 200]


async def test_who_leaves_gives_the_place_back_and_waiting_work_never_starts() -> None:
    detector = GatedDetector()
    settings = VisionSettings.load(orchestrator_url=None, vision_threads=1, vision_queue_max=2)
    async with serving(app_of(settings, detector)) as port, AsyncExitStack() as stack:
        running = await sent(stack, port)
        await detector.began()
        waiting = [await sent(stack, port) for _ in range(2)]
        await until_taken(port, 3)
        for client in [running, *waiting]:
            client.leave()
        await until_taken(port, 0)
        last = await sent(stack, port)
        detector.gate.set()
        assert (await last.answer()).status == 200
        await detector.began()
        assert detector.batches == [1, 1]  # the first and the last; none of those who left in between


def waiting() -> float | None:
    return REGISTRY.get_sample_value("soundstage_vision_waiting")


async def test_what_waits_while_the_device_is_busy_goes_together() -> None:
    detector = GatedDetector()
    settings = VisionSettings.load(orchestrator_url=None, vision_threads=2, vision_queue_max=8, vision_batch=4)
    async with serving(app_of(settings, detector)) as port, AsyncExitStack() as stack:
        clients = [await sent(stack, port)]
        await detector.began()
        clients += [await sent(stack, port) for _ in range(6)]
        await eventually(lambda: waiting() == 6, "the decoding")
        detector.gate.set()
        assert [(await client.answer()).status for client in clients] == [200] * 7
    assert detector.batches == [1, 4, 2]


async def test_the_workers_key_opens_the_door() -> None:
    settings = VisionSettings.load(orchestrator_url=None, wan_worker_api_key="secret")
    async with serving(app_of(settings, GatedDetector())) as port:
        assert (await ask(port, image())).status == 401
        for path in (b"/healthz", b"/health", b"/metrics"):
            assert (await ask(port, request(target=path))).status == 200


async def test_a_detector_that_fails_fails_its_request_only() -> None:
    class Broken(GatedDetector):
        def detect(self, images: Sequence[Pixels]) -> list[list[Face]]:
            raise RuntimeError("out of order")

    async with serving(app_of(VisionSettings.load(orchestrator_url=None), Broken())) as port:
        for _ in range(12):  # more than there are places
            answer = await ask(port, image())
            assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert b"out of order" not in answer.body
        assert await places_taken(port) == 0


class Orchestrator:
    """Takes registrations."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _no_lifespan(receive, send)
            return
        message: Message = await receive()
        body = json.loads(message["body"]) if message.get("body") else None
        key = dict(scope["headers"])[b"authorization"].decode()
        self.calls.append((f"{scope['method']} {scope['path']}", key, body))
        await send_json(send, {"id": "x", "lease_seconds": 30, "heartbeat_seconds": 10})


async def _no_lifespan(receive: Receive, send: Send) -> None:
    for kind in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{kind}.complete"})


async def test_registers_at_start_and_says_goodbye_at_the_end() -> None:
    orchestrator = Orchestrator()
    async with serving(orchestrator) as there:
        settings = VisionSettings.load(
            orchestrator_url=f"http://127.0.0.1:{there}", wan_worker_api_key="secret", public_url="http://selfie.test:9"
        )
        service = app_of(settings, GatedDetector())
        async with serving(service):
            await eventually(lambda: orchestrator.calls, "registration")
            service.stop()
            await eventually(lambda: orchestrator.calls[-1][2]["draining"], "that it will stop")
    (first, key, announced), *_, (last, _, _) = orchestrator.calls
    assert (first, key) == ("POST /v1/workers", "Bearer secret")
    assert (announced["kind"], announced["url"], announced["capacity"]) == ("selfie", "http://selfie.test:9/", 10)
    assert [model["abilities"] for model in announced["models"]] == [["faces"]]
    assert last == f"DELETE /v1/workers/{announced['id']}"


def cancelled() -> float:
    return REGISTRY.get_sample_value("soundstage_client_disconnects_total", {"service": "vision"}) or 0.0


async def test_a_client_that_leaves_while_sending_gives_its_place_back(worker: int) -> None:
    before = cancelled()
    async with connected(worker) as client:
        await client.send(image()[:3000])
        await until_taken(worker, 1)
        client.leave()
    await eventually(lambda: cancelled() == before + 1, "the disconnect")
    assert await places_taken(worker) == 0
