"""What is counted is what the engine used, in every way of asking: as `python -m bench.metering` asks a real one."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.metering.measure import Comparison, Metering
from bench.metering.ways import Way, ways
from orchestrator.gateway.costs import most
from tests.fakes.studio import ChatWorker, Studio, studio_over
from tests.fakes.upstream import Exchange, Upstream

SAID = "one two three"
CHAT: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": SAID}]}
WAYS = [way for way in ways("small") if "several prompts" not in way.name and "echo" not in way.name]
WHOLE = [way for way in WAYS if not way.cut]


async def counted(studio: Studio, worker: ChatWorker, asked: list[Way]) -> list[Comparison]:
    async with aiohttp.ClientSession() as session:
        metering = Metering(session, studio.url, studio.key, worker.url, "small")
        return [each async for each in metering.measured(asked)]


@pytest.mark.slow
async def test_what_is_counted_is_what_the_engine_used(studio: Studio) -> None:
    found = await counted(studio, await studio.chat_worker(), WHOLE)
    assert len(found) >= 60
    assert {each.way.name: each.status for each in found if each.status != 200} == {}
    assert {each.way.name: each for each in found if not each.stated} == {}
    assert {each.way.name: each for each in found if each.difference} == {}
    assert {each.way.name: each for each in found if (each.input or 0) + (each.output or 0) != each.budget} == {}


@pytest.mark.slow
async def test_a_stream_that_is_cut_short_pays_what_the_engine_had_said(studio: Studio) -> None:
    """The engine stands still after its third word; the caller leaves there, or has no more time."""
    worker = await studio.chat_worker()
    await worker.behave(stall_after_tokens=3)
    body = {**CHAT, "messages": [{"role": "user", "content": "a b c d e f"}], "stream": True}
    asked = [
        Way("left", "/v1/chat/completions", body, leaves=3),
        Way("several answers", "/v1/chat/completions", {**body, "n": 2}, leaves=6),
        Way("completion", "/v1/completions", {"model": "small", "prompt": "a b c d", "stream": True}, leaves=3),
        Way("out of time", "/v1/chat/completions", body, {"x-request-timeout": "1"}),
        Way("recipe", "/v1/chat/completions", {**body, "prompt": {"id": "chat_conversation"}}, leaves=3),
    ]
    found = {each.way.name: each for each in await counted(studio, worker, asked)}
    assert {name: (each.output, each.source, each.difference) for name, each in found.items()} == {
        "left": (3, "engine", 0),
        "several answers": (6, "engine", 0),
        "completion": (3, "engine", 0),
        "out of time": (3, "engine", 0),
        "recipe": (3, "engine", 0),
    }


@pytest.mark.slow
async def test_who_has_no_time_for_an_answer_pays_for_its_prompt_and_the_record_calls_it_an_estimate(
    migrated_dsn: str, tmp_path: Path
) -> None:
    async with studio_over(migrated_dsn, tmp_path, first_byte_seconds=1.0, lease_seconds=600) as studio:
        await _late(studio)


async def _late(studio: Studio) -> None:
    worker = await studio.chat_worker()
    await worker.behave(first_token_seconds=30.0)
    body = {**CHAT, "messages": [{"role": "user", "content": "word " * 80}]}
    limits = {"budget_tokens": 10_000, "budget_days": 366}
    made = await studio.post("/v1/keys", {"name": "k", "scopes": ["chat"], "limits": limits})
    key = made.json()["secret"]
    recipe = {"prompt": {"id": "chat_conversation"}}
    asked: list[tuple[str, dict[str, Any], dict[str, str]]] = [
        ("/v1/chat/completions", body, {"x-request-timeout": "0.5"}),
        ("/v1/chat/completions", body, {}),
        ("/v1/chat/completions", {**body, "stream": True}, {}),
        ("/v1/completions", {"model": "small", "prompt": "word " * 80}, {}),
        ("/v1/responses", {"model": "small", "input": "word " * 80}, {}),
        ("/v1/chat/completions", {**body, **recipe}, {}),
        ("/generate", {**body, "model": "qwen_instruct"}, {}),
    ]
    for path, sent, headers in asked:
        late = await studio.post(path, sent, key=key, headers=headers)
        assert late.status_code == 504 or sent.get("stream"), late.text
        assert "upstream_timeout" in late.text
    runs = (await studio.get("/v1/runs")).json()["data"]
    assert [(run["usage_source"], run["input_tokens"] > 80) for run in runs] == [("estimate", True)] * len(asked)
    await worker.behave(first_token_seconds=0.0)
    paid = sum(run["input_tokens"] + run["output_tokens"] for run in runs)
    probe = {**CHAT, "max_tokens": 1}
    answer = await studio.post("/v1/chat/completions", probe, key=key)
    taken = most("chat", json.dumps(probe, separators=(",", ":")).encode(), None).tokens
    assert int(answer.headers["x-ratelimit-remaining-budget"]) == 10_000 - paid - taken


@pytest.mark.slow
async def test_who_never_reached_an_engine_pays_nothing(studio: Studio) -> None:
    await studio.chat_worker(capacity=1)
    limits = {"budget_tokens": 10_000, "budget_days": 366}
    key = (await studio.post("/v1/keys", {"name": "k", "scopes": ["chat"], "limits": limits})).json()["secret"]
    refused = await studio.post("/v1/chat/completions", {**CHAT, "temperature": "hot", "model": "none"}, key=key)
    assert refused.status_code == 404
    probe = {**CHAT, "max_tokens": 1}
    taken = most("chat", json.dumps(probe, separators=(",", ":")).encode(), None).tokens
    answer = await studio.post("/v1/chat/completions", probe, key=key)
    assert int(answer.headers["x-ratelimit-remaining-budget"]) == 10_000 - taken


@pytest.mark.slow
async def test_an_answer_that_nobody_saw_is_estimated_by_the_pace_of_its_worker(studio: Studio) -> None:
    worker = await studio.chat_worker()
    await worker.behave(token_seconds=0.05)
    body: dict[str, Any] = {**CHAT, "messages": [{"role": "user", "content": "word " * 40}], "max_tokens": 30}
    assert (await studio.post("/v1/chat/completions", {**body, "max_tokens": 16})).status_code == 200
    late = await studio.post("/v1/chat/completions", body, headers={"x-request-timeout": "0.6"})
    assert late.status_code == 504
    run = (await studio.get("/v1/runs?limit=1")).json()["data"][0]
    assert run["usage_source"] == "estimate"
    assert 1 <= run["output_tokens"] <= 30


PLAIN = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@pytest.mark.slow
@pytest.mark.parametrize("status", [400, 422])
async def test_an_engine_that_refuses_the_question_is_asked_without_it(
    studio: Studio, upstream: Upstream, status: int
) -> None:
    """Its refusals are then of what the caller sent, and what it took is an estimate."""
    refusal = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status
    whole = HEAD + PLAIN * 3 + b"data: [DONE]\n\n"

    async def script(exchange: Exchange) -> None:
        if b"stream_options" in exchange.received.body:
            await exchange.write(refusal)
        else:
            await exchange.write(whole)
            exchange.close()

    upstream.script = script
    await studio.register("a", str(upstream.url))
    body = {**CHAT, "stream": True}
    answer = await studio.post("/v1/chat/completions", body)
    assert (answer.status_code, answer.content) == (200, PLAIN * 3 + b"data: [DONE]\n\n")
    run = (await studio.get(f"/v1/runs/{answer.headers['x-run-id']}")).json()
    assert (run["usage_source"], run["output_tokens"]) == ("estimate", 3)
    assert [b"stream_options" in each.body for each in upstream.received] == [True, False]
