"""Traces of relayed requests: what a span tells, what the worker is told, and that nothing costs where they are off."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import REGISTRY

from orchestrator.operate.tracing import Tracing, from_environment
from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import eventually

HI: Any = [{"role": "user", "content": "one two three"}]
SECRETS = ("one two three", "one two")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = int(PARENT.split("-")[1], 16)
slow = pytest.mark.slow


def traced() -> tuple[Tracing, InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider), exporter


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


@slow
async def test_a_request_and_its_worker_are_spans_below_the_callers(migrated_dsn: str, tmp_path: Path) -> None:
    tracing, exporter = traced()
    async with studio_over(migrated_dsn, tmp_path, tracing) as studio:
        worker = await studio.chat_worker()
        client = studio.sdk(default_headers={"traceparent": PARENT})
        await client.chat.completions.create(model="small", messages=HI, max_tokens=2, temperature=0.5)
        ask, request = exporter.get_finished_spans()
        assert (ask.name, request.name) == ("chat small", "POST /v1/chat/completions")
        assert {span.context.trace_id for span in (ask, request) if span.context} == {TRACE}
        assert parent(request) == int(PARENT.split("-")[2], 16)
        assert request.context is not None
        assert ask.context is not None
        assert parent(ask) == request.context.span_id
        assert told(ask) | {"server.port": 0, "gen_ai.response.time_to_first_chunk": 0} == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "soundstage",
            "gen_ai.request.model": "small",
            "gen_ai.request.max_tokens": 2,
            "gen_ai.request.temperature": 0.5,
            "gen_ai.response.time_to_first_chunk": 0,
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 2,
            "http.response.status_code": 200,
            "server.address": "127.0.0.1",
            "server.port": 0,
            "soundstage.worker": "chat-1",
        }
        (received,) = await worker.received()
        assert received["headers"]["traceparent"] == f"00-{TRACE:032x}-{ask.context.span_id:016x}-01"
        await _failures(studio, exporter)
        spans = exporter.get_finished_spans()
        assert not any(secret in str(told(span)) for span in spans for secret in (*SECRETS, studio.key))


async def _failures(studio: Studio, exporter: InMemorySpanExporter) -> None:
    """A refusal has no span of a worker; a worker that failed has one that says so."""
    exporter.clear()
    with pytest.raises(openai.NotFoundError):
        await studio.sdk().chat.completions.create(model="nope", messages=HI)
    (request,) = exporter.get_finished_spans()
    assert (told(request)["error.type"], told(request)["http.response.status_code"]) == ("model_not_found", 404)
    assert (request.status.status_code, request.parent) == (StatusCode.ERROR, None)
    exporter.clear()
    await studio.register("gone", "http://127.0.0.1:9", models=[{"id": "away", "abilities": ["chat"]}])
    with pytest.raises(openai.InternalServerError):
        await studio.sdk().chat.completions.create(model="away", messages=HI)
    ask, request = exporter.get_finished_spans()
    assert [told(span)["error.type"] for span in (ask, request)] == ["engine_unavailable"] * 2


@slow
async def test_with_traces_off_the_callers_trace_reaches_the_worker_all_the_same(studio: Studio) -> None:
    worker = await studio.chat_worker()
    headers = {"traceparent": PARENT, "tracestate": "a=b"}
    await studio.post("/v1/chat/completions", {"model": "small", "messages": HI}, headers=headers)
    await studio.post("/generate", {"messages": HI, "model": "qwen_instruct"}, headers=headers)
    assert [each["headers"]["traceparent"] for each in await worker.received()] == [PARENT] * 2


def test_where_it_is_off_nothing_of_it_is_loaded() -> None:
    assert from_environment() is None
    code = (
        "import sys, orchestrator.gateway.exchange;"
        " print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    )
    found = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# -- the same, as metrics ---------------------------------------------------------------------------------------------


def sampled(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@slow
async def test_times_and_tokens_are_counted_once_for_each_answer(studio: Studio) -> None:
    worker = await studio.chat_worker()
    names = ("soundstage_time_to_first_token_seconds_count", "soundstage_inter_token_seconds_count")

    def counted() -> list[float]:
        tokens = [sampled("soundstage_tokens_total", ability="chat", direction=each) for each in ("input", "output")]
        return [*(sampled(name, ability="chat") for name in names), *tokens]

    before = counted()
    client = studio.sdk()
    await client.chat.completions.create(model="small", messages=HI)
    await worker.behave(token_seconds=0.02)
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    async for _ in await client.chat.completions.create(model="small", messages=HI, **options):
        pass
    await worker.behave(stall_after_tokens=2)
    left = await client.chat.completions.create(model="small", messages=HI, stream=True)
    for _ in range(2):
        await anext(left)
    await left.close()
    await eventually(lambda: counted()[0] - before[0] == 2, "the count of the stream that was left")
    streams = counted()[1] - before[1]
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [2, streams, 9, 8]


@slow
async def test_what_a_pipeline_or_an_older_path_takes_counts_against_the_budget(studio: Studio) -> None:
    await studio.chat_worker()
    limits = {"budget_tokens": 3000, "budget_days": 366}
    made = await studio.post("/v1/keys", {"name": "an app", "scopes": ["chat"], "limits": limits})
    key: str = made.json()["secret"]
    statuses: list[int] = []
    body = {"messages": [{"role": "user", "content": "word " * 300}], "model": "qwen_instruct", "max_tokens": 300}
    while len(statuses) < 9:
        statuses.append((await studio.post("/generate", body, key=key)).status_code)
    assert statuses == [200, 200] + [429] * 7, "600 tokens each; 1,860 are set aside, the prompt's bytes and max_tokens"
