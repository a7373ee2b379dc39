"""Pictures under limits: those that an engine drew are paid, once, whatever the way to ask and however it ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Json, Jsonb
from starlette.responses import JSONResponse

from core.http.idempotency import REPEATED
from orchestrator.access.payments import EngineWork, Step, paying
from tests.fakes.answers import named
from tests.fakes.client import connected, request
from tests.fakes.scripted_worker import Call
from tests.fakes.studio import DRAWS, Studio, studio_over
from tests.fakes.wait import answers, eventually
from tests.fakes.workers import DrawingWorker, picture

pytestmark = pytest.mark.slow

MOST, BUDGET = 40, 10_000_000
IMAGEGEN, PRIVATE, PROFILE = "/v1/imagegen", "/v1/chat/private/imagegen", "/v1/profile/create"
RELAYED = "/v1/images/generations"
ASKED = {"prompt": "a red apple", "seed": 7, "partial_images": 0}
KEY = {"idempotency-key": "order-17"}
LATE = {"x-request-timeout": "0.5"}


class Broken(DrawingWorker):
    """Its streams end with an error after two whole pictures; that it gave them before it says where it `repeats`."""

    repeats = False

    def draw(self, call: Call) -> Any:
        answer = super().draw(call)
        return JSONResponse(answer, headers={REPEATED: "true"}) if self.repeats else answer

    async def events(self, images: range, previews: int) -> AsyncIterator[bytes]:
        for at in images[:2]:
            whole = {"b64_json": picture(at), "image_index": at, "seed": at}
            yield named("image_generation.completed", whole)
        error = {"message": "set to fail", "type": "server_error", "param": None, "code": None}
        yield named("error", {"error": error})


@pytest.fixture(autouse=True)
def day(monkeypatch: pytest.MonkeyPatch) -> None:
    """No minute ends while a test counts."""
    monkeypatch.setattr("orchestrator.access.limits.MINUTE", 86_400)


@pytest.fixture
def studio(durable_studio: Studio) -> Studio:
    return durable_studio


class App:
    """One key under limits."""

    def __init__(self, studio: Studio, secret: str) -> None:
        self.studio, self.secret = studio, secret

    async def post(self, path: str, body: Any = None, **sent: Any) -> Any:
        return await self.studio.post(path, body, key=self.secret, **sent)

    async def paid(self) -> int:
        """By what is left: more than the limit at once is refused, and takes nothing."""
        refused = await self.post(RELAYED, {"prompt": "a", "n": MOST + 1})
        assert refused.status_code == 429, refused.text
        return MOST - int(refused.headers["x-ratelimit-remaining-images"])

    async def tokens_left(self) -> int:
        """In the same way."""
        refused = await self.post("/v1/chat/completions", {"model": "small", "messages": [], "max_tokens": BUDGET})
        assert refused.status_code == 429, refused.text
        return int(refused.headers["x-ratelimit-remaining-budget"])

    async def ended(self, answer: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}

        async def over() -> bool:
            job = await self.studio.get(f"/v1/jobs/{answer.headers['x-job-id']}", key=self.secret)
            found.update(job.json())
            return found["ended_at"] is not None

        await answers(over)
        return found


async def limited(studio: Studio, **limits: int) -> App:
    wanted = {"name": "an app", "scopes": ["chat", "images", "pipelines"], "limits": limits}
    return App(studio, (await studio.post("/v1/keys", wanted)).json()["secret"])


@pytest.fixture
async def app(studio: Studio) -> App:
    return await limited(studio, images_per_minute=MOST)


# -- how many ---------------------------------------------------------------------------------------------------------

BODIES: dict[str, tuple[dict[str, Any], int]] = {
    "none said": ({}, 1),
    "a number": ({"n": 4}, 4),
    "a text": ({"n": "4"}, 4),
    "a whole float": ({"n": 3.0}, 3),
    "true": ({"n": True}, 1),
    "too many": ({"n": 5}, 0),
    "no number": ({"n": "four"}, 0),
}


@pytest.mark.parametrize("way", ["wait", "stream", "background"])
@pytest.mark.parametrize(("body", "drawn"), BODIES.values(), ids=BODIES.keys())
async def test_a_pipeline_pays_what_it_draws(
    studio: Studio, app: App, way: str, body: dict[str, Any], drawn: int
) -> None:
    worker = await studio.drawing_worker()
    answer = await app.post(IMAGEGEN, ASKED | body | ({} if way == "wait" else {way: True}))
    if drawn:
        assert (await app.ended(answer))["state"] == "completed"
    else:
        assert answer.status_code == 400
    assert sum(int(sent.get("n", 1)) for sent in worker.received) == await app.paid() == drawn


async def test_previews_are_no_pictures(studio: Studio, app: App) -> None:
    worker = await studio.drawing_worker()
    worker.seen.set()
    answer = await app.post(IMAGEGEN, {**ASKED, "n": 2, "stream": True, "partial_images": 3})
    assert answer.text.count("event: image_generation.partial_image") == 6
    assert await app.paid() == 2


async def test_a_body_in_another_encoding_pays_what_it_draws(studio: Studio, app: App) -> None:
    worker = await studio.drawing_worker()
    headers = {"content-type": "application/json"}
    await app.post(IMAGEGEN, content=json.dumps({**ASKED, "n": 3}).encode("utf-16"), headers=headers)
    assert sum(int(sent.get("n", 1)) for sent in worker.received) == await app.paid()


async def test_a_selfies_avatars_are_paid_each(studio: Studio, app: App) -> None:
    await studio.chat_worker()
    await studio.drawing_worker()
    await studio.selfie_worker()
    form = {"files": {"image": ("me.jpg", b"\xff\xd8\xff a selfie")}, "data": {"consent": "true", "n": "4"}}
    answer = await app.post(PROFILE, **form)
    assert len(answer.json()["images"]) == await app.paid() == 4


async def test_relayed_pictures_are_paid_each(studio: Studio, app: App) -> None:
    await studio.drawing_worker()
    for n, paid in ((1, 1), (3, 4)):
        assert (await app.post(RELAYED, {"prompt": "a", "n": n})).status_code == 200
        assert await app.paid() == paid
    edit = {"files": {"image": ("a.png", b"a picture")}, "data": {"prompt": "a hat", "n": "2"}}
    assert (await app.post("/v1/images/edits", **edit)).status_code == 200
    assert await app.paid() == 6


# -- however it ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [IMAGEGEN, RELAYED])
async def test_what_a_worker_refuses_or_fails_is_not_paid(studio: Studio, app: App, path: str) -> None:
    worker = await studio.drawing_worker()
    body = {"prompt": "a red apple", "n": 4}
    for status in (500, 400, 404):
        worker.status = status
        assert (await app.post(path, body)).status_code >= 400
    assert (await app.post(path, {"prompt": "a zzexplicit painting of two adults"})).status_code == 422
    assert await app.paid() == 0


@pytest.mark.parametrize("body", [{"prompt": "<b></b>"}, {"prompt": "a zzexplicit painting of two adults"}])
async def test_a_background_run_that_fails_before_an_engine_works_is_not_paid(
    studio: Studio, app: App, body: dict[str, str]
) -> None:
    await studio.drawing_worker()
    answer = await app.post(IMAGEGEN, {**body, "n": 4, "background": True})
    assert (answer.status_code, (await app.ended(answer))["state"], await app.paid()) == (202, "failed", 0)


@pytest.mark.parametrize(("path", "body"), [(IMAGEGEN, ASKED), (RELAYED, {"prompt": "a"}), (PRIVATE, ASKED)])
async def test_a_caller_who_waits_no_longer_pays_what_was_begun(
    studio: Studio, app: App, path: str, body: dict[str, Any]
) -> None:
    worker = await studio.drawing_worker(roles=["chat1to1"])
    worker.held.clear()
    late = await app.post(path, {**body, "n": 3}, headers=LATE)
    assert (late.status_code, len(worker.received)) == (504, 1)
    await eventually(lambda: not worker.running)
    assert await app.paid() == 3


@pytest.mark.parametrize("path", [IMAGEGEN, RELAYED])
async def test_a_caller_who_leaves_pays_what_was_begun(studio: Studio, app: App, path: str) -> None:
    worker = await studio.drawing_worker()
    worker.held.clear()
    head = [(b"authorization", b"Bearer " + app.secret.encode()), (b"content-type", b"application/json")]
    async with connected(studio.port) as client:
        await client.send(request(b"POST", path.encode(), head, b'{"prompt": "a red apple", "n": 2}'))
        await eventually(lambda: worker.running)

    async def two() -> bool:
        return await app.paid() == 2

    await eventually(lambda: not worker.running)
    await answers(two)


async def test_who_leaves_the_line_of_a_full_pool_pays_nothing(studio: Studio, app: App) -> None:
    """Nothing was begun."""
    for path in (IMAGEGEN, RELAYED):
        assert (await app.post(path, {"prompt": "a red apple"}, headers=LATE)).status_code == 503
    assert await app.paid() == 0


@pytest.mark.parametrize("path", [IMAGEGEN, RELAYED])
async def test_of_a_stream_that_breaks_those_are_paid_that_came(studio: Studio, app: App, path: str) -> None:
    await studio.start(Broken(), "image-1", **DRAWS)
    answer = await app.post(path, {"prompt": "a red apple", "n": 4, "stream": True, "partial_images": 1})
    assert answer.status_code == 200
    assert await app.paid() == 2


# -- the tokens of steps ----------------------------------------------------------------------------------------------

TEXT_STEPS = {
    "a pipeline": ("/v1/chat/1to1/imagegen", {"json": {"message": "a red apple"}}),
    "a step alone": ("/v1/chat/1to1/expand", {"json": {"message": "a red apple"}}),
    "a selfie": (PROFILE, {"files": {"image": ("me.jpg", b"\xff\xd8\xff a selfie")}, "data": {"consent": "true"}}),
}


@pytest.mark.parametrize(("path", "sent"), TEXT_STEPS.values(), ids=TEXT_STEPS.keys())
async def test_a_step_that_a_model_worked_on_is_paid_though_nobody_waits(
    studio: Studio, path: str, sent: dict[str, Any]
) -> None:
    """What it took nobody knows: a quarter of the most, as docs/gateway.md says."""
    app = await limited(studio, budget_tokens=BUDGET, budget_days=366)
    chat, faces = await studio.chat_worker(), await studio.selfie_worker()
    await studio.drawing_worker(roles=["chat1to1"])
    await chat.behave(first_token_seconds=30.0)
    faces.held.clear()

    async def at_work() -> bool:
        return bool(faces.running or (await chat.state())["running"])

    before = await app.tokens_left()
    post = request_of(studio, path, app.secret, sent)
    async with connected(studio.port) as client:
        await client.send(post)
        await answers(at_work)
        assert await app.tokens_left() < before, "set aside while it works"

    async def settled_down() -> bool:
        return not await at_work() and 0 < before - await app.tokens_left() < 20_000

    await answers(settled_down)


async def test_a_step_whose_engine_is_too_slow_is_paid(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path, first_byte_seconds=0.5, lease_seconds=600) as studio:
        app = await limited(studio, budget_tokens=BUDGET, budget_days=366)
        chat = await studio.chat_worker()
        before = await app.tokens_left()
        await chat.behave(first_token_seconds=30.0)
        late = await app.post("/v1/chat/1to1/expand", {"message": "a red apple"})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "upstream_timeout")
        assert 0 < before - await app.tokens_left() < 20_000


def request_of(studio: Studio, path: str, secret: str, sent: dict[str, Any]) -> bytes:
    """The bytes of a request as the client would send them."""
    built = studio.http.build_request("POST", path, headers={"authorization": f"Bearer {secret}"}, **sent)
    kept = [pair for pair in built.headers.raw if pair[0].lower() in (b"authorization", b"content-type")]
    return request(b"POST", path.encode(), kept, built.read())


# -- once -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["wait", "stream", "background"])
async def test_what_comes_again_is_not_paid_again_and_no_limit_is_in_its_way(studio: Studio, way: str) -> None:
    """Not the images, nor the requests: the answer is there."""
    app = await limited(studio, images_per_minute=2, requests_per_minute=1)
    worker = await studio.drawing_worker()
    body = {**ASKED, "n": 2} | ({} if way == "wait" else {way: True})
    first = await app.post(IMAGEGEN, body, headers=KEY)
    await app.ended(first)
    for _ in range(3):
        again = await app.post(IMAGEGEN, body, headers=KEY)
        assert again.status_code == first.status_code
        assert again.headers["x-job-id"] == first.headers["x-job-id"]
    other = await app.post(IMAGEGEN, {**body, "prompt": "a pear"}, headers=KEY)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    refused = await app.post(IMAGEGEN, body)
    assert (refused.status_code, len(worker.received)) == (429, 1)


async def test_a_selfie_that_comes_again_is_not_looked_at_again(studio: Studio) -> None:
    app = await limited(studio, images_per_minute=2, requests_per_minute=1)
    chat, image, faces = await studio.chat_worker(), await studio.drawing_worker(), await studio.selfie_worker()

    async def sent(picture: bytes = b"\xff\xd8\xff a selfie", **options: str) -> Any:
        form = {"files": {"image": ("me.jpg", picture)}, "data": {"consent": "true", "n": "2", **options}}
        return await app.post(PROFILE, headers=KEY, **form)

    first = await sent(strength="0.9")
    for _ in range(2):
        assert (await sent(strength="0.9")).text == first.text
    for other in (await sent(b"\xff\xd8\xff another", strength="0.9"), await sent(strength="0.8"), await sent()):
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert (first.status_code, len(faces.received), len(image.received), len(await chat.received())) == (200, 1, 1, 1)


async def test_an_enhancement_that_is_there_takes_no_tokens(studio: Studio) -> None:
    app = await limited(studio, budget_tokens=BUDGET, budget_days=366)
    chat, before = await studio.scripted_worker(), await app.tokens_left()
    body = {"prompt": "a red boat", "job_type": "sdxl_image_fast", "quality": "fast"}
    left = []
    for hit in (False, True):
        answer = await app.post("/enhance", body, headers=KEY)
        assert (answer.status_code, answer.json()["cache_hit"]) == (200, hit), answer.text
        left.append(await app.tokens_left())
    assert left == [before - 7 * len(chat.received)] * 2


async def test_a_relayed_picture_that_is_drawn_again_is_paid_again(studio: Studio, app: App) -> None:
    """An Idempotency-Key of a relayed call goes to no worker: each call is drawn."""
    worker = await studio.drawing_worker()
    for _ in range(2):
        assert (await app.post(RELAYED, {"prompt": "a", "n": 2}, headers=KEY)).status_code == 200
    assert all("idempotency-key" not in headers for headers in worker.headers)
    assert (len(worker.received), await app.paid()) == (2, 4)


async def test_a_limit_without_room_is_said_before_anything_is_done(studio: Studio) -> None:
    app = await limited(studio, images_per_minute=2)
    chat, image = await studio.chat_worker(), await studio.drawing_worker(roles=["chat1to1"])
    for body in ({}, {"stream": True}, {"background": True}):
        refused = await app.post("/v1/chat/1to1/imagegen", {"message": "a red apple", "n": 3, **body})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["x-ratelimit-remaining-images"] == "2"
    assert (image.received, await chat.received()) == ([], [])


async def test_many_at_once_never_draw_more_than_the_limit(studio: Studio) -> None:
    app = await limited(studio, images_per_minute=5)
    worker = await studio.drawing_worker()
    asked = [app.post(IMAGEGEN, {**ASKED, "n": 2, "seed": each}) for each in range(6)]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*asked))
    assert (statuses, len(worker.received)) == ([200] * 2 + [429] * 4, 2)


TAKEN_OVER = """
insert into jobs (id, pipeline, tenant, key_id, way, caller, request, request_sha256, deadline_at, state, attempts,
                  started_at, executor, version)
select %(id)s, pipeline, tenant, key_id, 'wait', caller, %(request)s, request_sha256, now() + interval '1 hour',
       'running', 1, now(), 'exec_gone', version from jobs where id = %(first)s
"""
FINISHED = """
insert into job_events (job, number, key, name, data)
select %(id)s, 1, key, name, %(done)s from job_events where job = %(first)s and key = 'expand/pipeline.step.completed'
"""


@pytest.mark.parametrize(("drawn_before", "pictures"), [(True, 0), (False, 2)])
async def test_a_run_that_is_taken_over_pays_each_step_once(
    studio: Studio, durable_dsn: str, app: App, drawn_before: bool, pictures: int
) -> None:
    """The step that its process had finished not at all; the one that its worker had drawn was paid by that process."""
    chat, worker = await studio.chat_worker(), Broken()
    await studio.start(worker, "image-1", **DRAWS)
    first = await app.post("/v1/chat/1to1/imagegen", {"message": "a red apple", "n": 2})
    assert (first.status_code, await app.paid()) == (200, 2)
    events = (await studio.get(f"/v1/jobs/{first.headers['x-job-id']}/events")).json()["data"]
    expanded = next(one["result"] for one in events if one.get("step") == "expand" and "result" in one)
    given = {
        **{"id": "job_" + "c" * 24, "first": first.headers["x-job-id"]},
        **{"request": Jsonb({"message": "a red apple", "n": 2}), "done": Json({"step": "expand", "result": expanded})},
    }
    worker.repeats = drawn_before
    async with await psycopg.AsyncConnection.connect(durable_dsn) as connection:
        await connection.execute(TAKEN_OVER, given)
        await connection.execute("update jobs set events = 1 where id = %(id)s", given)
        await connection.execute(FINISHED, given)

    async def over() -> bool:
        job: dict[str, Any] = (await studio.get(f"/v1/jobs/{given['id']}")).json()
        return bool(job["state"] == "completed")

    await answers(over)
    assert (await app.paid() - 2, len(worker.received), len(await chat.received())) == (pictures, 2, 3)


# -- the steps of a run, as its process tries them --------------------------------------------------------------------


def settled(*, repeated: bool = False, came: int = 0, gone: bool = False) -> int:
    return EngineWork(repeated=repeated, asked=4, begun=True, came=came).pictures(gone=gone)


def test_what_is_drawn_for_several_tries_is_paid_once() -> None:
    with paying(Step(tried_elsewhere=False)):
        assert settled(came=2) == 2
        assert settled(came=4, repeated=True) == 2
        assert settled(came=4, repeated=True) == 0
        assert settled(came=4) == 4, "drawn anew"
    with paying(Step(tried_elsewhere=False)):
        assert settled() == 0
        assert settled(came=4, repeated=True) == 4, "the first try paid nothing"
    with paying(Step(tried_elsewhere=True)):
        assert settled(came=4, repeated=True) == 0
        assert settled(came=4) == 4
        assert (EngineWork(repeated=True).paid, EngineWork().paid) == (True, False)
    assert settled(came=4, repeated=True) == 4, "no run's step"
    assert settled(gone=True) == 4
