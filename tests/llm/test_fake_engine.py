"""The fake engine itself: it says back what it was told, at the pace and with the failures it was set to."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.fakes.fake_engine import create_app
from tests.fakes.serving import serving

CHAT = {"model": "small", "messages": [{"role": "user", "content": "one two three"}]}


@pytest.fixture
async def engine() -> AsyncIterator[httpx2.AsyncClient]:
    async with serving(create_app(["small", "alias"], "key")) as port:
        headers = {"authorization": "Bearer key"}
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120, trust_env=False
        ) as client:
            yield client


async def test_it_answers_with_the_last_message(engine: httpx2.AsyncClient) -> None:
    answer = (await engine.post("/v1/chat/completions", json=CHAT | {"max_tokens": 2})).json()
    assert (answer["object"], answer["model"]) == ("chat.completion", "small")
    assert answer["choices"][0]["message"]["content"] == "one two"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    text = (await engine.post("/v1/completions", json={"model": "alias", "prompt": "four"})).json()
    assert (text["object"], text["choices"][0]["text"]) == ("text_completion", "four")


async def test_it_streams_word_by_word(engine: httpx2.AsyncClient) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    events = (await engine.post("/v1/chat/completions", json=body)).text.strip().split("\n\n")
    assert (len(events), events[-1]) == (6, "data: [DONE]")
    assert '"usage"' in events[-2]


async def test_it_refuses_as_an_engine_does(engine: httpx2.AsyncClient) -> None:
    assert (await engine.post("/v1/chat/completions", json=CHAT | {"model": "other"})).status_code == 404
    assert (await engine.post("/v1/chat/completions", content=b"{")).status_code == 400
    wrong = {"authorization": "Bearer wrong"}
    assert (await engine.post("/v1/chat/completions", json=CHAT, headers=wrong)).status_code == 401


async def test_it_fails_as_it_is_told(engine: httpx2.AsyncClient) -> None:
    await engine.post("/fake", json={"fail_with": 500, "healthy": False})
    assert (await engine.post("/v1/chat/completions", json=CHAT)).status_code == 500
    assert (await engine.get("/health")).status_code == 503
    await engine.post("/fake", json={"fail_with": 0, "healthy": True})
    assert (await engine.post("/v1/chat/completions", json=CHAT)).status_code == 200
    assert (await engine.get("/health")).status_code == 200


async def test_it_keeps_what_it_was_sent_but_not_the_key(engine: httpx2.AsyncClient) -> None:
    for number in range(120):
        await engine.post("/v1/chat/completions", json=CHAT | {"seed": number}, headers={"x-request-id": f"r{number}"})
    state = (await engine.get("/fake")).json()
    assert [received["body"]["seed"] for received in state["received"]] == list(range(20, 120))
    assert state["received"][-1]["headers"]["x-request-id"] == "r119"
    assert "authorization" not in state["received"][-1]["headers"]
    assert (state["running"], state["aborted"]) == (0, 0)
    assert "vllm:num_requests_running 0" in (await engine.get("/metrics")).text
