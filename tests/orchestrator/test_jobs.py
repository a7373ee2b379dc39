"""Jobs: one run called in three ways, followed, cancelled, listed, and asked for twice."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from core.db.plain import error_record
from core.db.pool import open_pool
from core.errors import Conflict
from orchestrator.jobs.store import JobStore
from orchestrator.jobs.values import End
from orchestrator.operate.seal import Seal, contents_key
from tests.fakes.client import RawClient, connected, request
from tests.fakes.studio import ChatWorker, Studio, studio_over
from tests.fakes.wait import answers, eventually, soon
from tests.fakes.workers import ImageWorker

PATH = "/v1/chat/1to1/imagegen"
ASKED = {"message": "a red apple", "seed": 7, "partial_images": 0}
STEPS = ("expand", "generate", "caption")


@pytest.fixture
def studio(durable_studio: Studio) -> Studio:
    return durable_studio


@pytest.fixture
async def workers(studio: Studio) -> tuple[ChatWorker, ImageWorker]:
    return await studio.chat_worker(), await studio.image_worker(roles=["chat1to1"])


Workers = tuple[ChatWorker, ImageWorker]


async def ended(studio: Studio, job_id: str) -> dict[str, Any]:
    """The job once it has ended."""
    found: dict[str, Any] = {}

    async def over() -> bool:
        found.update((await studio.get(f"/v1/jobs/{job_id}")).json())
        return found["ended_at"] is not None

    await answers(over, "the job's end")
    return found


def events_of(stream: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Server-sent events as (id, name, data); comments left out."""
    found = []
    for block in stream.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


async def test_wait_stream_and_background_give_the_same(studio: Studio, workers: Workers) -> None:
    waited = await studio.post(PATH, ASKED)
    assert waited.status_code == 200, waited.text
    streamed = await studio.post(PATH, {**ASKED, "stream": True})
    _, image = workers
    image.held.clear()  # or it may have ended before it is shown
    accepted = await studio.post(PATH, {**ASKED, "background": True})
    assert (accepted.status_code, accepted.json()["state"]) == (202, "running"), "there is a place for it"
    assert accepted.json()["status"] == "in_progress"
    image.held.set()
    assert accepted.headers["location"] == f"/v1/jobs/{accepted.json()['id']}"
    job = await ended(studio, accepted.json()["id"])
    told = events_of(streamed.text)
    one, two, three = waited.json(), told[-1][2], job["result"]
    assert told[-1][1] == "pipeline.completed"
    assert one["image_base64"] == two["image_base64"] == three["image_base64"]
    same = ("caption", "prompt_used", "model", "seed", "releases")
    assert [[answer[name] for name in same] for answer in (two, three)] == [[one[name] for name in same]] * 2
    assert (job["state"], job["status"], job["attempts"], job["error"]) == ("completed", "completed", 1, None)
    assert job["cost"]["tokens"] > 0


async def test_events_are_numbered_and_can_be_taken_up_again(studio: Studio, workers: Workers) -> None:
    streamed = await studio.post(PATH, {**ASKED, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    told, job_id = events_of(streamed.text), streamed.headers["x-job-id"]
    assert [number for number, _, _ in told] == list(range(1, len(told) + 1))
    steps = [(data["type"].rpartition(".")[2], data["step"]) for _, _, data in told if "step" in data]
    assert [step for step in steps if step[0] in ("started", "completed")] == [
        (what, step) for step in STEPS for what in ("started", "completed")
    ]
    for after in (0, 1, 3, len(told) - 1, len(told)):
        headers = {"authorization": f"Bearer {studio.key}", "accept": "text/event-stream", "last-event-id": str(after)}
        again = await studio.http.get(f"/v1/jobs/{job_id}/events", headers=headers)
        assert events_of(again.text) == told[after:]
        page = (await studio.get(f"/v1/jobs/{job_id}/events?starting_after={after}")).json()
        assert [(e["sequence_number"], e["type"]) for e in page["data"]] == [(n, name) for n, name, _ in told[after:]]
        assert (page["has_more"], page["last"], page["state"]) == (False, len(told), "completed")


async def test_a_number_that_is_not_there_yet_is_followed_from_now_on(studio: Studio, workers: Workers) -> None:
    _, image = workers
    image.held.clear()
    job_id = (await studio.post(PATH, {**ASKED, "background": True})).json()["id"]
    headers = {"authorization": f"Bearer {studio.key}", "accept": "text/event-stream", "last-event-id": "999"}
    async with studio.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        image.held.set()
        told = events_of((await soon(answer.aread())).decode())
    assert told[-1][1] == "pipeline.completed"


async def test_the_last_event_that_was_seen_goes_before_the_address(studio: Studio, workers: Workers) -> None:
    """A browser that connects again sends the address that it began with, and the header of where it was."""
    streamed = await studio.post(PATH, {**ASKED, "stream": True})
    told, job_id = events_of(streamed.text), streamed.headers["x-job-id"]
    for kind in ("text/event-stream", "application/json"):
        headers = {"authorization": f"Bearer {studio.key}", "accept": kind, "last-event-id": "4"}
        again = await studio.http.get(f"/v1/jobs/{job_id}/events?starting_after=1", headers=headers)
        found = [e["sequence_number"] for e in again.json()["data"]] if "json" in kind else None
        assert (found or [number for number, _, _ in events_of(again.text)])[0] == 5, kind
    assert len(told) > 5


async def test_a_page_of_jobs_that_begins_nowhere_is_a_mistake(studio: Studio, workers: Workers) -> None:
    ours = [(await studio.post(PATH, ASKED)).headers["x-job-id"] for _ in range(2)]
    made = await studio.post("/v1/keys", {"name": "other", "scopes": ["pipelines"]})
    other = made.json()["secret"]
    for key, after, status in ((None, "job_nobody", 400), (other, ours[0], 400), (None, ours[1], 200)):
        answer = await studio.get(f"/v1/jobs?after={after}", key=key)
        assert answer.status_code == status, answer.text
        if status == 400:
            assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("after", "unknown_after")
    assert [job["id"] for job in answer.json()["data"]] == ours[:1]


async def test_a_follower_sees_each_event_as_it_happens(studio: Studio, workers: Workers) -> None:
    _, image = workers
    image.held.clear()
    async with connected(studio.port) as client:
        headers = [(b"authorization", b"Bearer " + studio.key.encode()), (b"content-type", b"application/json")]
        await client.send(request(b"POST", PATH.encode(), headers, json.dumps({**ASKED, "stream": True}).encode()))
        assert (await client.head()).status == 200
        seen = ""
        while "generate" not in seen:
            seen += (await client.chunk()).decode()
        assert [data["step"] for _, _, data in events_of(seen)] == ["expand", "expand", "generate"]
        await eventually(lambda: image.running)
        image.held.set()
        while piece := await client.chunk():
            seen += piece.decode()
    assert events_of(seen)[-1][1] == "pipeline.completed"


KEY = {"idempotency-key": "order-17"}


@pytest.mark.parametrize("way", ["wait", "stream", "background"])
async def test_the_same_key_gives_the_first_answer_again(studio: Studio, workers: Workers, way: str) -> None:
    chat, image = workers
    body = ASKED | ({} if way == "wait" else {way: True})
    first = await studio.post(PATH, body, headers=KEY)
    job = await ended(studio, first.headers["x-job-id"])
    second = await studio.post(PATH, body, headers=KEY)
    assert second.headers["x-job-id"] == first.headers["x-job-id"] == job["id"]
    if way == "background":
        assert second.json() == job
    else:
        assert second.text == first.text
    assert (len(image.received), len(await chat.received())) == (1, 2), "nothing was done twice"
    other = await studio.post(PATH, {**body, "message": "a pear"}, headers=KEY)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")


async def test_two_who_ask_at_once_with_one_key_share_a_run(studio: Studio, workers: Workers) -> None:
    _, image = workers
    image.held.clear()
    asked = [asyncio.ensure_future(studio.post(PATH, ASKED, headers=KEY)) for _ in range(3)]
    await eventually(lambda: image.running)
    image.held.set()
    told = [answer.json() for answer in await soon(asyncio.gather(*asked))]
    assert told == [told[0]] * 3
    assert len(image.received) == 1


async def test_come_again_later_is_no_answer_to_keep(studio: Studio) -> None:
    chat = await studio.chat_worker()
    first = await studio.post(PATH, ASKED, headers=KEY)
    assert (first.status_code, first.json()["error"]["code"]) == (503, "no_worker")
    await studio.image_worker()
    second = await studio.post(PATH, ASKED, headers=KEY)
    assert (second.status_code, second.json()["model"]) == (200, "tiny-image")
    assert len(await chat.received()) == 3


async def test_an_error_is_the_same_in_all_ways(studio: Studio, workers: Workers) -> None:
    _, image = workers
    image.status = 500
    waited = await studio.post(PATH, ASKED)
    streamed = await studio.post(PATH, {**ASKED, "stream": True})
    accepted = await studio.post(PATH, {**ASKED, "background": True})
    job = await ended(studio, accepted.json()["id"])
    assert (waited.status_code, streamed.status_code, job["state"]) == (502, 200, "failed")
    _, name, data = events_of(streamed.text)[-1]
    assert name == "error"
    assert waited.json()["error"] == data["error"] == job["error"]
    assert job["error"]["code"] == "engine_failed"


async def test_a_background_job_waits_for_a_worker(studio: Studio) -> None:
    await studio.chat_worker()
    accepted = await studio.post(PATH, {**ASKED, "background": True})
    job_id = accepted.json()["id"]

    async def drawing() -> bool:
        page = (await studio.get(f"/v1/jobs/{job_id}/events")).json()
        return any(e.get("step") == "generate" for e in page["data"])

    await answers(drawing)
    await studio.image_worker()
    assert (await ended(studio, job_id))["state"] == "completed"


@pytest.mark.parametrize("step", STEPS)
async def test_cancel_reaches_the_engine_inside_a_step(studio: Studio, workers: Workers, step: str) -> None:
    chat, image = workers
    image.held.clear()
    await chat.behave(token_seconds=30.0 if step == "expand" else 0.0)

    async def chatting() -> bool:
        return bool((await chat.state())["running"])

    accepted = await studio.post(PATH, {**ASKED, "background": True})
    job_id = accepted.json()["id"]
    if step != "expand":
        await eventually(lambda: image.running)
    if step == "caption":
        await chat.behave(token_seconds=30.0)
        image.held.set()
    if step != "generate":
        await answers(chatting)
    cancelled = await studio.post(f"/v1/jobs/{job_id}/cancel")
    assert (cancelled.json()["state"], cancelled.json()["error"]["code"]) == ("cancelled", "job_cancelled")
    await eventually(lambda: not image.running)

    async def idle() -> bool:
        return not await chatting()

    await answers(idle)
    again = await studio.post(f"/v1/jobs/{job_id}/cancel")
    assert again.json() == cancelled.json(), "what has ended stays as it ended"
    page = (await studio.get(f"/v1/jobs/{job_id}/events")).json()
    assert page["data"][-1]["type"] == "error"
    assert not [e for e in page["data"] if e["type"].endswith("completed") and e["step"] == step]


async def test_a_deadline_reaches_the_engine_and_ends_the_run(studio: Studio, workers: Workers) -> None:
    _, image = workers
    image.held.clear()
    late = await studio.post(PATH, ASKED, headers={"x-request-timeout": "0.7"})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "pipeline_timeout")
    assert 0 < int(image.headers[0]["x-soundstage-deadline-ms"]) <= 700
    await eventually(lambda: not image.running)
    job = await ended(studio, await newest(studio))
    assert (job["state"], job["error"]["code"]) == ("failed", "pipeline_timeout")


async def newest(studio: Studio) -> str:
    return str((await studio.get("/v1/jobs?limit=1")).json()["data"][0]["id"])


async def test_who_leaves_without_a_key_ends_the_run(studio: Studio, workers: Workers) -> None:
    _, image = workers
    image.held.clear()
    for headers, state in (({}, "cancelled"), (KEY, "running")):
        async with connected(studio.port) as client:
            sent = [(b"authorization", b"Bearer " + studio.key.encode()), (b"content-type", b"application/json")]
            sent += [(k.encode(), v.encode()) for k, v in headers.items()]
            await client.send(request(b"POST", PATH.encode(), sent, json.dumps(ASKED).encode()))
            await eventually(lambda: image.running)
            client.leave()
        job = (await studio.get("/v1/jobs")).json()["data"][0]
        if state == "cancelled":
            assert (await ended(studio, job["id"]))["state"] == state
            await eventually(lambda: not image.running)
    image.held.set()
    assert (await studio.post(PATH, ASKED, headers=KEY)).status_code == 200
    assert len(image.received) == 2


async def streamed(client: RawClient, studio: Studio, headers: dict[str, str] | None = None) -> str:
    """A run whose client sits on its stream; its id."""
    sent = {"authorization": f"Bearer {studio.key}", "content-type": "application/json", **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
    await client.send(request(b"POST", PATH.encode(), pairs, json.dumps({**ASKED, "stream": True}).encode()))
    return ((await client.head()).header(b"x-job-id") or b"").decode()


async def test_a_stream_that_nobody_follows_any_more_ends(studio: Studio, workers: Workers) -> None:
    _, image = workers
    image.held.clear()
    async with connected(studio.port) as client:
        job_id = await streamed(client, studio)
        await eventually(lambda: image.running)
        client.leave()
    job = await ended(studio, job_id)
    assert (job["state"], job["error"]["code"]) == ("cancelled", "caller_left")
    await eventually(lambda: not image.running)
    await eventually(lambda: image.called_off == [f"{job_id}:generate"])


async def test_a_stream_that_somebody_follows_or_may_ask_for_goes_on(
    durable_dsn: str, studio: Studio, workers: Workers
) -> None:
    _, image = workers
    image.held.clear()
    follow = [(b"authorization", b"Bearer " + studio.key.encode()), (b"accept", b"text/event-stream")]
    async with connected(studio.port) as one, connected(studio.port) as other, connected(studio.port) as keyed:
        job_id, with_key = await streamed(one, studio), await streamed(keyed, studio, KEY)
        await other.send(request(b"GET", f"/v1/jobs/{job_id}/events".encode(), follow))
        assert (await other.head()).status == 200
        await eventually(lambda: image.running == 2)
        one.leave()
        keyed.leave()
        async with await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True) as connection:

            async def left() -> bool:
                query = "select followers from jobs where id = any(%s) order by followers"
                rows = await (await connection.execute(query, ([job_id, with_key],))).fetchall()
                return rows == [(0,), (1,)]

            await answers(left, "the number of followers")
        image.held.set()
        for one_id in (job_id, with_key):
            assert (await ended(studio, one_id))["state"] == "completed"
    assert image.called_off == []


async def test_cancelling_at_another_orchestrator_reaches_the_engine(
    durable_dsn: str, studio: Studio, workers: Workers, tmp_path: Path
) -> None:
    """What another one does is this statement: the one at work hears of it by the database."""
    _, image = workers
    image.held.clear()
    job_id = (await studio.post(PATH, {**ASKED, "background": True})).json()["id"]
    await eventually(lambda: image.running)
    how = End("cancelled", None, error_record(Conflict("The job was cancelled.", code="job_cancelled")))
    async with open_pool(durable_dsn, size=1) as pool:
        assert await JobStore(pool, Seal(contents_key(tmp_path / "keys" / "contents_key"))).end(job_id, how)
    await eventually(lambda: not image.running)
    job = await ended(studio, job_id)
    page = (await studio.get(f"/v1/jobs/{job_id}/events")).json()
    assert (job["state"], job["result"], page["data"][-1]["type"]) == ("cancelled", None, "error")
    await eventually(lambda: image.called_off == [f"{job_id}:generate"])


async def test_a_step_that_asks_for_something_else_now_has_a_key_of_its_own(studio: Studio, workers: Workers) -> None:
    """A policy or a default may change between the death of an orchestrator and the step's second time."""
    _, image = workers
    image.status, image.code = 409, "idempotency_key_reused"
    refused = await studio.post(PATH, ASKED)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_key_reused")
    first, second = (headers["idempotency-key"] for headers in image.headers)
    assert second.startswith(f"{first}:")
    assert first == f"{refused.headers.get('x-job-id') or first.split(':')[0]}:generate"


async def test_jobs_are_listed_for_their_own_key(studio: Studio, workers: Workers) -> None:
    made = [(await studio.post(PATH, {**ASKED, "background": True})).json()["id"] for _ in range(3)]
    for job_id in made:
        await ended(studio, job_id)
    told = (await studio.get("/v1/jobs?limit=2")).json()
    assert ([job["id"] for job in told["data"]], told["has_more"]) == (made[:0:-1], True)
    rest = (await studio.get(f"/v1/jobs?after={made[1]}")).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (made[:1], False)
    assert "result" not in rest["data"][0]
    assert (await studio.get("/v1/jobs?state=failed")).json()["data"] == []
    assert len((await studio.get("/v1/jobs?state=completed&pipeline=chat1to1")).json()["data"]) == 3
    other = (await studio.post("/v1/keys", {"name": "other", "scopes": ["pipelines"]})).json()["secret"]
    assert (await studio.get("/v1/jobs", key=other)).json()["data"] == []
    for path in (made[0], f"{made[0]}/events"):
        assert (await studio.get(f"/v1/jobs/{path}", key=other)).json()["error"]["code"] == "job_not_found"
    refused = await studio.post(f"/v1/jobs/{made[0]}/cancel", key=other)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "job_not_found")


BAD: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "two ways": ({"stream": True, "background": True}, {}, "both_ways"),
    "a webhook for who waits": ({"webhook": "https://example.com/"}, {}, "webhook_not_background"),
    "a private webhook": ({"background": True, "webhook": "http://127.0.0.1/x"}, {}, "private_webhook"),
    "a webhook with a password": ({"background": True, "webhook": "https://a:b@example.com/"}, {}, "bad_webhook"),
    "an empty key": ({}, {"idempotency-key": ""}, "invalid_idempotency_key"),
    "a long key": ({}, {"idempotency-key": "x" * 256}, "invalid_idempotency_key"),
    "no event id": ({"stream": True}, {"last-event-id": "x"}, "invalid_event_id"),
}


async def test_what_is_wrong_is_said(studio: Studio, workers: Workers) -> None:
    for name, (body, headers, code) in BAD.items():
        answer = await studio.post(PATH, {**ASKED, **body}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), (name, answer.text)
    assert (await studio.get("/v1/jobs?limit=0")).status_code == 400
    assert workers[1].received == []


async def test_what_a_run_takes_counts_however_it_is_called(studio: Studio, workers: Workers) -> None:
    limits = {"budget_tokens": 1_000_000, "budget_days": 366}
    made = {"name": "an app", "scopes": ["chat", "pipelines"], "limits": limits}
    key = (await studio.post("/v1/keys", made)).json()["secret"]
    chat = {"model": "small", "messages": [{"role": "user", "content": "one"}], "max_tokens": 1}

    async def left() -> int:
        answer = await studio.post("/v1/chat/completions", chat, key=key)
        return int(answer.headers["x-ratelimit-remaining-budget"])

    before, own = await left(), 1 + 1
    for way in ({}, {"stream": True}, {"background": True}):
        answer = await studio.post(PATH, {**ASKED, **way}, key=key)
        assert answer.status_code in (200, 202), answer.text
        job = await ended(studio, answer.headers["x-job-id"])
        now = await left()
        assert (job["state"], before - now) == ("completed", job["cost"]["tokens"] + own), way
        before = now


async def test_a_trace_and_a_priority_stay_with_a_job(studio: Studio, workers: Workers) -> None:
    chat, image = workers
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for way in ({}, {"background": True}):
        headers = {"traceparent": trace, "x-priority": "7"}
        answer = await studio.post(PATH, {**ASKED, **way}, headers=headers)
        assert (await ended(studio, answer.headers["x-job-id"]))["priority"] == 7
        assert {sent["traceparent"] for sent in image.headers} == {trace}
        assert {sent["headers"]["traceparent"] for sent in await chat.received()} == {trace}


async def test_a_full_queue_hides_no_run_that_was_asked_for_before(durable_dsn: str, tmp_path: Path) -> None:
    async with studio_over(durable_dsn, tmp_path, durable_jobs=True, jobs_queue_max=1) as studio:
        first = await studio.post(PATH, {**ASKED, "background": True}, headers={"idempotency-key": "one"})
        again = await studio.post(PATH, {**ASKED, "background": True}, headers={"idempotency-key": "one"})
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        other = await studio.post(PATH, {**ASKED, "seed": 8, "background": True}, headers={"idempotency-key": "one"})
        assert other.json()["error"]["code"] == "idempotency_key_reused"
        assert (await studio.post(PATH, {**ASKED, "background": True})).json()["error"]["code"] == "jobs_full"
