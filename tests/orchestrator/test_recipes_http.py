"""A request that names a recipe: the prompt comes from the database, the answer says which one it was."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import openai
import pytest
import respx
from openai.types.chat import ChatCompletionMessageParam

from tests.fakes.answers import chunk, event
from tests.fakes.client import connected, request
from tests.fakes.engines import URL, Stream, mocked_transport
from tests.fakes.studio import ChatWorker, Studio, studio_over
from tests.fakes.wait import answers

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two three"}]
RECIPE = {"prompt": {"id": "chat_conversation", "variables": {"name": "Ada"}}}
EXPAND = {"id": "chat1to1.expand", "variables": {"message": "a red apple"}}


async def test_the_recipe_puts_its_messages_before_the_callers(studio: Studio) -> None:
    worker = await studio.chat_worker()
    answer = await studio.sdk().chat.completions.with_raw_response.create(model="any", messages=HI, extra_body=RECIPE)
    completion = answer.parse()
    assert completion.choices[0].message.content == "one two three"
    assert answer.headers["x-prompt-release"] == "chat_conversation@1"
    (received,) = await worker.received()
    system, *rest = received["body"]["messages"]
    assert (system["role"], system["content"].split(".")[0], rest) == ("system", "You are Ada", HI)


async def test_the_callers_messages_go_where_the_recipe_wants_them(studio: Studio) -> None:
    worker = await studio.chat_worker()
    history = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "then"}]
    for messages, wanted in ((history, history), ([], []), (None, [])):
        await studio.post("/v1/chat/completions", {"prompt": EXPAND, "messages": messages})
        system, *between, user = (await worker.received())[-1]["body"]["messages"]
        assert (system["role"], user["role"]) == ("system", "user")
        examples = len(between) - len(wanted)
        assert [message["role"] for message in between[:examples]] == ["user", "assistant"] * (examples // 2)
        assert between[examples:] == wanted
        assert user["content"].endswith("a red apple")


async def test_a_stream_with_its_usage(studio: Studio) -> None:
    await studio.chat_worker()
    stream = await studio.sdk().chat.completions.create(
        model="any", messages=HI, stream=True, stream_options={"include_usage": True}, extra_body=RECIPE
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two three"
    assert chunks[-1].usage


async def test_the_recipe_decides_the_model_and_the_caller_the_rest(studio: Studio) -> None:
    """Sampling is the recipe's where the caller says nothing; what is not the engine's does not reach it."""
    worker = await studio.chat_worker()
    own = {"model": "ignored", "temperature": 0.1, "top_k": 5, "messages": HI, **RECIPE}
    assert (await studio.post("/v1/chat/completions", own)).status_code == 200
    sent = (await worker.received())[-1]["body"]
    assert {name: sent.get(name) for name in ("model", "temperature", "top_p", "max_tokens", "top_k", "prompt")} == {
        "model": "qwen_instruct",
        "temperature": 0.1,
        "top_p": 0.9,
        "max_tokens": 512,
        "top_k": 5,
        "prompt": None,
    }


async def test_a_version_may_be_named_by_label_or_number(studio: Studio) -> None:
    await studio.chat_worker()
    for version in ("production", "1"):
        body = {"prompt": {**RECIPE["prompt"], "version": version}, "messages": HI}
        answer = await studio.post("/v1/chat/completions", body)
        assert answer.headers["x-prompt-release"] == "chat_conversation@1"


ERRORS: dict[str, tuple[dict[str, Any], type[openai.APIStatusError], str, str | None]] = {
    "unknown recipe": ({"id": "nope"}, openai.NotFoundError, "prompt_not_found", "prompt.id"),
    "unknown label": (
        {"id": "chat_conversation", "version": "nope"},
        openai.NotFoundError,
        "prompt_not_found",
        "prompt.id",
    ),
    "unknown version": (
        {"id": "chat_conversation", "version": "99"},
        openai.NotFoundError,
        "prompt_not_found",
        "prompt.id",
    ),
    "a variable is missing": ({"id": "caption"}, openai.BadRequestError, "invalid_variables", "prompt.variables"),
    "a variable of the wrong type": (
        {"id": "caption", "variables": {"prompt": 3}},
        openai.BadRequestError,
        "invalid_variables",
        "prompt.variables.prompt",
    ),
    "a variable that is not declared": (
        {"id": "caption", "variables": {"prompt": "x", "extra": 1}},
        openai.BadRequestError,
        "invalid_variables",
        "prompt.variables",
    ),
}


async def test_each_error_is_the_sdks_own_exception(studio: Studio) -> None:
    worker = await studio.chat_worker()
    client = studio.sdk()
    for name, (prompt, kind, code, param) in ERRORS.items():
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model="any", messages=HI, extra_body={"prompt": prompt})
        assert (caught.value.code, caught.value.param) == (code, param), name
    assert await worker.received() == []


async def test_messages_that_are_none(studio: Studio) -> None:
    for messages in ("text", [1], [{"content": "no role"}], {"role": "user"}):
        answer = await studio.post("/v1/chat/completions", {**RECIPE, "messages": messages})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


async def test_no_worker_is_a_503_that_says_when_to_come_again(studio: Studio) -> None:
    answer = await studio.post("/v1/chat/completions", {**RECIPE, "messages": HI})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
    assert int(answer.headers["retry-after"]) >= 1


ENGINE_SAYS: dict[int, tuple[int, str]] = {
    400: (400, "400"),
    429: (429, "engine_full"),
    401: (502, "engine_failed"),
    500: (502, "engine_failed"),
    503: (503, "engine_unavailable"),
}
ENGINE_FAILS: list[tuple[Exception, tuple[int, str]]] = [
    (httpx2.ConnectTimeout("late"), (503, "engine_unavailable")),
    (httpx2.ReadTimeout("late"), (504, "upstream_timeout")),
    (httpx2.RemoteProtocolError("broken"), (503, "engine_unavailable")),
]
COMPLETIONS = f"{URL}/v1/chat/completions"


@pytest.fixture
async def mocked(migrated_dsn: str, tmp_path: Path, httpx2_mock: respx.Router) -> AsyncIterator[Studio]:
    """A studio whose one chat worker is respx's."""
    httpx2_mock.route(host="127.0.0.1").pass_through()
    async with studio_over(migrated_dsn, tmp_path, transport=mocked_transport()) as studio:
        assert (await studio.register("chat-1", URL)).status_code == 200
        yield studio


async def test_what_the_engine_refuses(mocked: Studio, httpx2_mock: respx.Router) -> None:
    for said, wanted in ENGINE_SAYS.items():
        httpx2_mock.post(COMPLETIONS).respond(said, json={"error": {"message": "set to fail", "code": said}})
        answer = await mocked.post("/v1/chat/completions", {**RECIPE, "messages": HI})
        assert (answer.status_code, answer.json()["error"]["code"]) == wanted, said


async def test_an_engine_that_is_not_reached(mocked: Studio, httpx2_mock: respx.Router) -> None:
    for failure, wanted in ENGINE_FAILS:
        httpx2_mock.post(COMPLETIONS).mock(side_effect=failure)
        answer = await mocked.post("/v1/chat/completions", {**RECIPE, "messages": HI})
        assert (answer.status_code, answer.json()["error"]["code"]) == wanted, failure


async def test_an_engine_that_breaks_off_is_an_error_in_the_stream(mocked: Studio, httpx2_mock: respx.Router) -> None:
    words = (event(chunk("small", word)) for word in ("one", " two"))
    broken = Stream(*words, httpcore2.RemoteProtocolError("closed"))
    httpx2_mock.post(COMPLETIONS).respond(stream=broken, content_type="text/event-stream")
    stream = await mocked.sdk().chat.completions.create(model="any", messages=HI, stream=True, extra_body=RECIPE)
    assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["one", " two"]
    with pytest.raises(openai.APIError, match="closed the stream"):
        await anext(stream)


async def test_what_a_recipe_may_take_is_set_aside_as_it_is_rendered(studio: Studio) -> None:
    """Not by what the caller sent, which is short: the release's messages and its own max_tokens count."""
    await studio.chat_worker()
    sent = {**RECIPE, "messages": HI}

    async def asked(budget: int) -> httpx2.Response:
        limits = {"budget_tokens": budget, "budget_days": 366}
        made = await studio.post("/v1/keys", {"name": "an app", "scopes": ["chat"], "limits": limits})
        return await studio.post("/v1/chat/completions", sent, key=made.json()["secret"])

    refused, answer = await asked(len(json.dumps(sent)) + 512), await asked(20_000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")
    assert answer.status_code == 200
    assert int(answer.headers["x-ratelimit-remaining-budget"]) < 20_000 - len(json.dumps(sent)) - 512


async def test_the_request_id_is_passed_on(studio: Studio) -> None:
    worker = await studio.chat_worker()
    answer = await studio.post("/v1/chat/completions", {**RECIPE, "messages": HI}, headers={"x-request-id": "my-id"})
    assert answer.headers["x-request-id"] == "my-id"
    assert (await worker.received())[0]["headers"]["x-request-id"] == "my-id"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_a_caller_who_leaves_frees_the_engine(studio: Studio, streamed: bool) -> None:
    worker = await studio.chat_worker()
    await worker.behave(token_seconds=30.0)
    body = json.dumps({**RECIPE, "messages": HI, "stream": streamed}).encode()
    async with connected(studio.port) as client:
        authorization = (b"authorization", b"Bearer " + studio.key.encode())
        await client.send(request(b"POST", b"/v1/chat/completions", [authorization], body))
        await answers(lambda: _running(worker, 1))
        client.leave()
    await answers(lambda: _running(worker, 0))
    assert (await worker.state())["aborted"] == 1


async def _running(worker: ChatWorker, number: int) -> bool:
    return bool((await worker.state())["running"] == number)
