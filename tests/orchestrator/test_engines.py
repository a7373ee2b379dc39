"""The openai client for a worker: what it sends, and what becomes of each answer and each failure."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpcore2
import httpx
import httpx2
import pytest
import respx

from core.errors import SoundstageError, Upstream
from orchestrator.engines.answer import CHAT as READ_CHAT
from orchestrator.engines.chat_api import CHAT, RESPONSES, Dialect
from orchestrator.engines.client import Engines
from orchestrator.workers.registry import WorkerPool
from tests.fakes.engines import URL, Stream, mocked_engines, pool_of

MESSAGES = [{"role": "user", "content": "Hi"}]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}]}


@pytest.fixture
def pool() -> WorkerPool:
    return pool_of(("chat-1", "chat", URL))


@pytest.fixture
async def engines(pool: WorkerPool, httpx2_mock: respx.Router) -> AsyncIterator[Engines]:
    async with mocked_engines(pool) as made:
        yield made


async def ask(engines: Engines, speech: Dialect = CHAT, **fields: Any) -> httpx2.Response:
    async with engines.engine("small", speech.ability, "req-1", key="run:step", trace=TRACE) as (client, name, _):
        return await speech.whole(client, name, MESSAGES, fields)


async def stream(engines: Engines, speech: Dialect = CHAT) -> list[str]:
    engine = engines.engine("small", speech.ability, "req-1")
    async with engine as (client, name, _), speech.call(client, name, MESSAGES, {"stream": True}) as response:
        return [line async for line in response.iter_lines()]


def outstanding(pool: WorkerPool) -> int:
    worker = pool.known("chat-1")
    assert worker is not None
    return worker.outstanding


BODIES: dict[str, tuple[Dialect, dict[str, Any]]] = {
    "/chat/completions": (CHAT, {"messages": MESSAGES, "return_token_ids": True}),
    "/responses": (RESPONSES, {"input": MESSAGES, "enable_response_messages": True}),
}


@pytest.mark.parametrize("path", BODIES)
async def test_what_a_worker_is_sent(engines: Engines, httpx2_mock: respx.Router, path: str) -> None:
    speech, own = BODIES[path]
    route = httpx2_mock.post(f"{URL}/v1{path}").respond(json=ANSWER, headers={"x-messages-sha256": "a hash"})
    answer = await ask(engines, speech, seed=3)
    assert (answer.json(), answer.headers["x-messages-sha256"]) == (ANSWER, "a hash")
    sent = route.calls.last.request
    assert json.loads(sent.content) == {"model": "small-1", "seed": 3, **own}
    wanted = {"authorization": "Bearer worker-key", "x-request-id": "req-1", "idempotency-key": "run:step"}
    assert {name: sent.headers[name] for name in [*wanted, "traceparent"]} == {**wanted, "traceparent": TRACE}


async def test_the_headers_of_one_request_are_not_those_of_the_next(
    engines: Engines, httpx2_mock: respx.Router
) -> None:
    route = httpx2_mock.post(f"{URL}/v1/chat/completions").respond(json=ANSWER)
    await ask(engines)
    async with engines.engine("small", "chat", "req-2") as (client, name, worker):
        await CHAT.whole(client, name, MESSAGES, {})
    sent = route.calls.last.request.headers
    assert (worker, sent["x-request-id"]) == ("chat-1", "req-2")
    assert {"idempotency-key", "traceparent"}.isdisjoint(sent)


STATUSES: dict[str, tuple[int, dict[str, Any], tuple[int, str, str | None]]] = {
    "a refusal": (400, {"message": "no", "code": "bad", "param": "top_p"}, (400, "bad", "top_p")),
    "a refusal whose code is a number": (400, {"message": "no", "code": 400}, (400, "400", None)),
    "a refusal without words": (422, {}, (422, "engine_refused", None)),
    "an unknown path": (404, {"message": "no"}, (404, "engine_refused", None)),
    "a wrong key": (401, {"message": "no"}, (502, "engine_failed", None)),
    "a forbidden path": (403, {"message": "no"}, (502, "engine_failed", None)),
    "a full engine": (429, {"message": "full"}, (429, "engine_full", None)),
    "a broken engine": (500, {"message": "secret"}, (502, "engine_failed", None)),
    "an engine that is not ready": (503, {"message": "soon"}, (503, "engine_unavailable", None)),
}


@pytest.mark.parametrize("name", STATUSES)
async def test_what_becomes_of_a_status(
    engines: Engines, pool: WorkerPool, httpx2_mock: respx.Router, name: str
) -> None:
    status, error, wanted = STATUSES[name]
    httpx2_mock.post(f"{URL}/v1/chat/completions").respond(status, json={"error": error})
    with pytest.raises(SoundstageError) as caught:
        await ask(engines)
    assert (caught.value.status, caught.value.code, caught.value.param) == wanted
    assert "secret" not in str(caught.value)
    assert outstanding(pool) == 0


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("soon", 2), ("9" * 400, 2)])
async def test_an_engine_says_when_to_come_again(
    engines: Engines, httpx2_mock: respx.Router, header: str, seconds: int
) -> None:
    httpx2_mock.post(f"{URL}/v1/chat/completions").respond(429, headers={"retry-after": header})
    with pytest.raises(SoundstageError) as caught:
        await ask(engines)
    assert caught.value.retry_after == seconds


FAILURES: dict[str, tuple[Exception, tuple[int, str]]] = {
    "nobody there": (httpx2.ConnectError("refused"), (503, "engine_unavailable")),
    "no connection in time": (httpx2.ConnectTimeout("late"), (503, "engine_unavailable")),
    "no answer in time": (httpx2.ReadTimeout("late"), (504, "upstream_timeout")),
    "a broken answer": (httpx2.RemoteProtocolError("broken"), (503, "engine_unavailable")),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_what_becomes_of_a_failure(
    engines: Engines, pool: WorkerPool, httpx2_mock: respx.Router, name: str
) -> None:
    failure, wanted = FAILURES[name]
    httpx2_mock.post(f"{URL}/v1/chat/completions").mock(side_effect=failure)
    with pytest.raises(SoundstageError) as caught:
        await ask(engines)
    assert (caught.value.status, caught.value.code) == wanted
    assert outstanding(pool) == 0


@pytest.mark.parametrize("path", BODIES)
async def test_a_stream_comes_as_it_was_sent(engines: Engines, httpx2_mock: respx.Router, path: str) -> None:
    speech, _ = BODIES[path]
    pieces = b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n"
    httpx2_mock.post(f"{URL}/v1{path}").respond(stream=Stream(*pieces), content_type="text/event-stream")
    assert await stream(engines, speech) == ['data: {"choices":[]}', "", "data: [DONE]", ""]


async def test_a_stream_that_breaks_off(engines: Engines, pool: WorkerPool, httpx2_mock: respx.Router) -> None:
    broken = Stream(b"data: {}\n\n", httpcore2.RemoteProtocolError("closed"))
    httpx2_mock.post(f"{URL}/v1/chat/completions").respond(stream=broken, content_type="text/event-stream")
    with pytest.raises(SoundstageError) as caught:
        await stream(engines)
    assert caught.value.code == "engine_unavailable"
    assert outstanding(pool) == 0


async def test_the_tokens_of_messages(engines: Engines, httpx2_mock: respx.Router) -> None:
    route = httpx2_mock.post(f"{URL}/tokenize").respond(json={"tokens": [5, 6], "count": 2})
    assert await engines.tokens("small", MESSAGES, {"tools": []}, "req-1") == [5, 6]
    wanted = {"model": "small-1", "messages": MESSAGES, "tools": [], "add_generation_prompt": True}
    assert json.loads(route.calls.last.request.content) == wanted


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"tokens": "5"}', b"\xff"])
async def test_tokens_that_are_none(engines: Engines, httpx2_mock: respx.Router, answer: bytes) -> None:
    httpx2_mock.post(f"{URL}/tokenize").respond(content=answer)
    with pytest.raises(Upstream):
        await engines.tokens("small", MESSAGES, {}, "req-1")


async def test_the_text_of_tokens(engines: Engines, httpx2_mock: respx.Router) -> None:
    route = httpx2_mock.post(f"{URL}/detokenize")
    route.side_effect = [httpx.Response(200, json={"prompt": text}) for text in ("one", "two")]
    found = await engines.texts("small", [[1], [2, 3]], "req-1", tenant="default", until=float("inf"))
    assert found == ["one", "two"]
    assert json.loads(route.calls.last.request.content) == {"model": "small-1", "tokens": [2, 3]}
    httpx2_mock.post(f"{URL}/detokenize").respond(500)
    assert await engines.texts("small", [[1]], "req-1", tenant="default", until=float("inf")) is None


async def test_what_nobody_waits_for_is_told_until_it_is_heard(pool: WorkerPool, httpx2_mock: respx.Router) -> None:
    route = httpx2_mock.post(f"{URL}/v1/told")
    route.side_effect = [httpx2.ConnectError("away"), httpx.Response(404)]
    async with mocked_engines(pool) as engines, engines.engine("small", "chat", "req-1") as (client, _, _):
        engines.aside(lambda: client.post("/told", body={}, cast_to=httpx2.Response))
    assert route.call_count == 2, "a 404 was heard: it is not told again"


async def test_the_image_worker_that_has_the_work_is_found(httpx2_mock: respx.Router) -> None:
    models = [{"id": "tiny-image", "abilities": ["images"]}]
    pool = pool_of(*((f"image-{at}", "image", f"http://image-{at}.test") for at in range(4)), models=models)
    answers: list[dict[str, Any]] = [
        {"status_code": 500},
        {"json": {"found": None}},
        {"json": {"found": "running"}},
        {"json": {"found": 5}},
    ]
    routes = [
        httpx2_mock.post(f"http://image-{at}.test/v1/images/find").respond(**answer)
        for at, answer in enumerate(answers)
    ]
    async with mocked_engines(pool) as engines:
        assert await engines.holder("images", None, {"idempotency-key": "a key"}) == "image-2"
    assert {route.calls.last.request.headers["idempotency-key"] for route in routes} == {"a key"}


SAMPLING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the same words": ({"top_p": 0.5, "seed": 1}, {"top_p": 0.5, "seed": 1}),
    "a limit": ({"max_tokens": 5}, {"max_output_tokens": 5}),
    "a later name of the limit": ({"max_completion_tokens": 5}, {"max_output_tokens": 5}),
    "effort": ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
    "a schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}},
    ),
    "tools": (
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "function", "name": "f"}]},
    ),
}


@pytest.mark.parametrize("name", SAMPLING)
def test_a_releases_sampling_in_the_words_of_responses(name: str) -> None:
    given, wanted = SAMPLING[name]
    assert RESPONSES.sampling(given) == wanted
    assert CHAT.sampling(given) == given


def test_sampling_without_a_counterpart_is_refused() -> None:
    with pytest.raises(SoundstageError) as caught:
        RESPONSES.sampling({"logprobs": True})
    assert caught.value.code == "not_for_responses"


def test_what_only_the_proof_asked_for_is_taken_out() -> None:
    answer = {**ANSWER, "prompt_token_ids": [1], "choices": [{**ANSWER["choices"][0], "token_ids": [2]}]}
    assert json.loads(READ_CHAT.bare(json.dumps(answer).encode())) == ANSWER
    assert READ_CHAT.whole(json.dumps(answer).encode()).token_ids == [1]
