"""A relayed request as the official SDK sends it: answers, streams, and each error as the SDK's own exception."""

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.fakes.client import ask, connected, request
from tests.fakes.studio import ChatWorker, Studio
from tests.fakes.wait import answers, soon

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two three"}]


async def test_a_chat_answer(studio: Studio) -> None:
    await studio.chat_worker()
    answer = await studio.sdk().chat.completions.create(model="small", messages=HI)
    assert answer.choices[0].message.content == "one two three"
    assert answer.usage
    assert answer.usage.completion_tokens == 3


async def test_a_chat_stream_with_its_usage(studio: Studio) -> None:
    await studio.chat_worker()
    stream = await studio.sdk().chat.completions.create(
        model="qwen_instruct", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two three"
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 3


async def test_completions(studio: Studio) -> None:
    await studio.chat_worker()
    client = studio.sdk()
    answer = await client.completions.create(model="small", prompt="one two")
    assert answer.choices[0].text == "one two"
    stream = await client.completions.create(model="small", prompt="one two", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "one two"


async def test_an_image(studio: Studio) -> None:
    worker = await studio.image_worker()
    answer = await studio.sdk().images.generate(model="tiny-image", prompt="an apple", size="256x256")
    assert answer.data
    assert answer.data[0].b64_json == worker.pictures[0]["b64_json"]
    assert (await studio.post("/v1/images/generations", {"prompt": "without a model"})).status_code == 200
    assert [sent["prompt"] for sent in worker.received] == ["an apple", "without a model"]


async def test_a_caller_speaks_for_no_other_tenant_at_an_image_worker(studio: Studio) -> None:
    worker = await studio.image_worker()
    said = {"x-soundstage-tenant": "other", "x-soundstage-priority": "high", "x-soundstage-release": "forged@1"}
    await studio.post("/v1/images/generations", {"prompt": "an apple"}, headers=said)
    (heard,) = worker.headers
    assert {name: value for name, value in heard.items() if name.startswith("x-soundstage-")} == {
        "x-soundstage-tenant": "default"
    }


async def test_the_engine_gets_the_callers_bytes_with_the_workers_key(studio: Studio) -> None:
    """Unknown fields and odd spacing pass; the caller's own key does not."""
    worker = await studio.chat_worker()
    body = b' {"messages":[ ], "top_k" : 3,\n"x-new":{"deep":[1,null]},"model":"small"}'
    headers = [(b"authorization", b"Bearer " + studio.key.encode()), (b"x-request-id", b"my-id"), (b"x-other", b"yes")]
    answer = await ask(studio.port, request(b"POST", b"/v1/chat/completions", headers, body))
    assert (answer.status, answer.header(b"x-request-id")) == (200, b"my-id")
    (received,) = await worker.received()
    assert received["body"] == json.loads(body)
    sent = received["headers"]
    assert (sent["x-request-id"], sent["x-other"], sent["content-length"]) == ("my-id", "yes", str(len(body)))
    assert studio.key not in str(received)


ERRORS: dict[str, tuple[dict[str, Any], type[openai.APIStatusError], str | None, str | None]] = {
    "unknown model": ({"model": "nope", "messages": HI}, openai.NotFoundError, "model_not_found", "model"),
    "no model": ({"model": None, "messages": HI}, openai.BadRequestError, "missing_model", "model"),
    "a wrong type": ({"model": 3, "messages": HI}, openai.BadRequestError, "invalid_body", None),
    "a chat template": (
        {"model": "small", "messages": HI, "extra_body": {"chat_template": "{{ evil }}"}},
        openai.BadRequestError,
        "field_refused",
        "chat_template",
    ),
    "a recipe without a name": (
        {"model": "small", "messages": HI, "extra_body": {"prompt": {}}},
        openai.BadRequestError,
        "invalid_prompt",
        "prompt",
    ),
}


async def test_each_error_is_the_sdks_own_exception(studio: Studio) -> None:
    worker = await studio.chat_worker()
    client = studio.sdk()
    for name, (sent, kind, code, param) in ERRORS.items():
        for streamed in (False, True):
            with pytest.raises(kind) as caught:
                await client.chat.completions.create(**sent, stream=streamed)
            body: Any = caught.value.body
            assert set(body) == {"message", "type", "param", "code"}, name
            assert (body["code"], body["param"], bool(caught.value.request_id)) == (code, param, True), name
    assert await worker.received() == []


RAW: dict[str, tuple[bytes, bytes, bytes, int, str]] = {
    "not JSON": (b"POST", b"/v1/chat/completions", b"{", 400, "json_invalid"),
    "nothing": (b"POST", b"/v1/chat/completions", b"", 400, "json_invalid"),
    "a list": (b"POST", b"/v1/completions", b"[]", 400, "invalid_body"),
    "too deep": (b"POST", b"/tokenize", b'{"model":"small","x":' + b"[" * 50_000, 400, "json_too_deep"),
    "too large": (b"POST", b"/v1/chat/completions", b" " * 4096, 413, "body_too_large"),
    "another method": (b"GET", b"/v1/chat/completions", b"", 405, "method_not_allowed"),
    "another path": (b"POST", b"/v1/unheard-of", b"{}", 404, "not_found"),
}


async def test_a_wrong_request_gets_the_envelope(studio: Studio) -> None:
    for name, (method, path, body, status, code) in RAW.items():
        headers = [(b"authorization", b"Bearer " + studio.key.encode())]
        data = request(method, path, headers, body)
        if code == "body_too_large":
            data = data.replace(b"Content-Length: 4096", b"Content-Length: 99999999999")
        answer = await ask(studio.port, data)
        assert (answer.status, answer.error["code"]) == (status, code), name


async def test_a_body_of_too_many_values_reaches_no_engine(studio: Studio) -> None:
    worker = await studio.chat_worker()
    bodies: list[dict[str, Any]] = [{"x": [[]] * 100_000}, {"messages": [{}] * 100_000}, {"prompt": [1] * 150_001}]
    for body in bodies:
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize"):
            answer = await studio.post(path, {"model": "small", **body})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_values")
    assert not await worker.received()


@pytest.mark.parametrize("trace", [b"\xff", b"a", b"00-0-0-00", b"a" * 5000])
async def test_a_recipe_goes_on_without_a_trace_that_is_none(studio: Studio, trace: bytes) -> None:
    worker = await studio.chat_worker()
    body = json.dumps({"prompt": {"id": "chat_conversation"}, "messages": HI}).encode()
    headers = [(b"authorization", b"Bearer " + studio.key.encode()), (b"traceparent", trace)]
    answer = await ask(studio.port, request(b"POST", b"/v1/chat/completions", headers, body))
    assert answer.status == 200, answer.body
    assert "traceparent" not in (await worker.received())[0]["headers"]


async def test_an_engines_refusal_passes_unchanged(studio: Studio) -> None:
    worker = await studio.chat_worker()
    await worker.behave(fail_with=422)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await studio.sdk().chat.completions.create(model="small", messages=HI)
    body: Any = caught.value.body
    assert body == {"message": "set to fail", "type": "BadRequestError", "param": None, "code": 422}


async def test_an_engine_that_breaks_off_is_an_error_in_the_stream(studio: Studio) -> None:
    worker = await studio.chat_worker()
    await worker.behave(break_after_tokens=2)
    stream = await studio.sdk().chat.completions.create(model="small", messages=HI, stream=True)
    assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["one", " two"]
    with pytest.raises(openai.APIError, match="closed the stream"):
        await anext(stream)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_a_caller_who_leaves_frees_the_engine(studio: Studio, streamed: bool) -> None:
    worker = await studio.chat_worker()
    await worker.behave(token_seconds=30.0)
    body = json.dumps({"model": "small", "messages": HI, "stream": streamed}).encode()
    headers = [(b"authorization", b"Bearer " + studio.key.encode())]

    async def leave() -> None:
        async with connected(studio.port) as client:
            await client.send(request(b"POST", b"/v1/chat/completions", headers, body))
            await answers(lambda: _running(worker, 1))
            client.leave()

    await soon(leave())
    await answers(lambda: _running(worker, 0))
    assert (await worker.state())["aborted"] == 1


async def _running(worker: ChatWorker, number: int) -> bool:
    return bool((await worker.state())["running"] == number)
