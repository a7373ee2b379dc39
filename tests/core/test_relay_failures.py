"""When the engine fails: an envelope before the first byte, an event in the stream after it, never a silent end."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import openai
import pytest
from yarl import URL

from core.errors import UpstreamTimeout
from core.http.relay import Outcome, Relay, Timeouts
from tests.core.conftest import WithTimeouts
from tests.fakes.client import ask, connected, request
from tests.fakes.gateway import Gateway
from tests.fakes.upstream import Exchange, Upstream, saying, then
from tests.fakes.wait import soon

CHAT = request(b"POST", b"/v1/chat/completions", [(b"Content-Type", b"application/json")], b'{"stream":true}')
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
DELTA = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}
EVENT = b"data: " + json.dumps(DELTA).encode() + b"\n\n"
BYTES = tuple(b"1\r\n%c\r\n" % byte for byte in EVENT)
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


@pytest.fixture
def dead_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def test_connection_refused_is_503_with_retry_after(gateway: Gateway, dead_port: int) -> None:
    gateway.engine = URL(f"http://127.0.0.1:{dead_port}")
    answer = await ask(gateway.port, CHAT)
    assert (answer.status, answer.header(b"retry-after")) == (503, b"2")
    assert (answer.error["type"], answer.error["code"]) == ("service_unavailable", "engine_unavailable")
    assert str(dead_port).encode() not in answer.body


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_closed_before_the_first_byte_is_503(gateway: Gateway, upstream: Upstream, end: str) -> None:
    upstream.script = then(end)
    answer = await ask(gateway.port, CHAT)
    assert (answer.status, answer.error["code"]) == (503, "engine_unavailable")
    assert answer.header(b"retry-after") is not None
    assert len(upstream.received) == 1, "a POST is not sent twice: the engine may have begun"


@pytest.mark.parametrize(
    "raw",
    [
        b"220 smtp ready\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
    ],
    ids=["another protocol", "bad length", "bad header name"],
)
async def test_an_answer_that_is_not_http_is_502(gateway: Gateway, upstream: Upstream, raw: bytes) -> None:
    upstream.script = then("close", raw)
    answer = await ask(gateway.port, CHAT)
    assert (answer.status, answer.error["code"]) == (502, "bad_upstream_answer")


async def test_no_first_byte_in_time_is_504(gateway_with: WithTimeouts, upstream: Upstream) -> None:
    gateway = await gateway_with(first_byte=0.02)
    upstream.script = then("hang")
    answer = await ask(gateway.port, CHAT)
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert isinstance(await soon(gateway.outcomes.get()), UpstreamTimeout)


async def test_half_a_response_head_is_no_first_byte(gateway_with: WithTimeouts, upstream: Upstream) -> None:
    gateway = await gateway_with(first_byte=0.02)
    upstream.script = then("hang", b"HTTP/1.1 200 OK\r\nContent-")
    assert (await ask(gateway.port, CHAT)).status == 504


@pytest.mark.parametrize(
    ("end", "code"), [("close", "upstream_closed"), ("reset", "upstream_closed"), ("hang", "upstream_timeout")]
)
@pytest.mark.parametrize("said", [(), (CHUNK,), BYTES], ids=["no event", "one event", "one event in bytes"])
async def test_a_broken_event_stream_ends_with_an_error_event(
    gateway_with: WithTimeouts, upstream: Upstream, end: str, code: str, said: tuple[bytes, ...]
) -> None:
    gateway = await gateway_with(first_byte=1.0, idle=0.3)
    before = EVENT if said else b""
    upstream.script = then(end, SSE + b"Transfer-Encoding: chunked\r\n\r\n", *said)
    answer = await ask(gateway.port, CHAT)
    assert answer.whole
    assert answer.body.startswith(before + b"data: ")
    assert answer.body.endswith(b"}\n\n")
    assert json.loads(answer.body.removeprefix(before + b"data: "))["error"]["code"] == code
    assert await soon(gateway.outcomes.get()) == Outcome(200, len(before), complete=False, late=end == "hang")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n", EVENT),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n", EVENT),
        (SSE + b"Content-Length: 1000\r\n", EVENT),
        (SSE + b"Content-Encoding: gzip\r\n", EVENT),
        (SSE, EVENT + b"data: {"),
        (SSE, EVENT[:-1]),
    ],
    ids=["sized json", "chunked json", "sized sse", "compressed sse", "inside an event", "before its blank line"],
)
@pytest.mark.parametrize("end", ["close", "reset", "hang"])
async def test_an_answer_that_no_event_can_end_is_cut_off_visibly(
    gateway_with: WithTimeouts, upstream: Upstream, head: bytes, said: bytes, end: str
) -> None:
    gateway = await gateway_with(idle=0.02)
    body = said if b"Length" in head else b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(said), said)
    upstream.script = then(end, head + (b"\r\n" if b"Length" in head else b"") + body)
    answer = await ask(gateway.port, CHAT)
    assert (answer.status, answer.body, answer.whole) == (200, said, False)
    assert await soon(gateway.outcomes.get()) == Outcome(200, len(said), complete=False, late=end == "hang")


async def test_chunks_that_keep_coming_are_never_late(gateway_with: WithTimeouts, upstream: Upstream) -> None:
    """The first-byte timeout ends with the first byte: each later gap has the idle timeout of its own."""
    gateway = await gateway_with(first_byte=0.4, idle=60)
    began, swept = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.write(SSE + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK)
        began.set()
        await soon(swept.wait())
        await exchange.write(CHUNK + b"0\r\n\r\n")

    upstream.script = script
    async with connected(gateway.port) as client:
        await client.send(CHAT)
        await soon(began.wait())
        asyncio.get_running_loop().call_later(0.5, swept.set)  # beyond the first-byte timeout
        assert (await client.answer()).body == EVENT * 2


@pytest.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"http://127.0.0.1:{gateway.port}/v1"
    async with openai.AsyncOpenAI(api_key="k", base_url=base_url, max_retries=0) as client:
        yield client


async def test_the_sdk_raises_from_the_error_event(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.script = then("close", SSE + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK)
    stream = await sdk.chat.completions.create(model="m", messages=[], stream=True)
    assert (await anext(stream)).id == "c"
    with pytest.raises(openai.APIError, match="closed the stream") as caught:
        await anext(stream)
    assert caught.value.code == "upstream_closed"


async def test_the_sdk_raises_when_an_event_is_cut_in_two(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.script = then("close", SSE + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + b'8\r\ndata: {"\r\n')
    stream = await sdk.chat.completions.create(model="m", messages=[], stream=True)
    assert (await anext(stream)).id == "c"
    with pytest.raises(openai.APIConnectionError):
        await anext(stream)


async def test_the_sdk_knows_each_envelope(sdk: openai.AsyncOpenAI, gateway: Gateway, dead_port: int) -> None:
    gateway.engine = URL(f"http://127.0.0.1:{dead_port}")
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk.chat.completions.create(model="m", messages=[])
    assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")


async def test_a_failed_exchange_leaves_no_poisoned_connection(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = then("close", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123")
    assert not (await ask(gateway.port, CHAT)).whole
    upstream.script = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (await ask(gateway.port, CHAT)).body == b"ok"


async def test_connecting_too_long_is_503(upstream: Upstream) -> None:
    """Nothing accepts on this listener and its queue is full, so the handshake never ends."""
    with socket.socket() as full, socket.socket() as filler:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        filler.connect(full.getsockname())
        async with Relay(Timeouts(connect=0.05)) as relay:
            with pytest.raises(Exception, match="not reachable"):
                await soon(relay.forward("GET", URL(f"http://127.0.0.1:{full.getsockname()[1]}/"), [], None, _never))


async def _never(_: object) -> None:
    raise AssertionError("nothing may be sent before the first byte")


@pytest.mark.parametrize("said", [(), (SSE + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK,)], ids=["before", "after"])
async def test_a_timeout_leaves_no_cancellation_behind(upstream: Upstream, said: tuple[bytes, ...]) -> None:
    """The sweeper cancels the task that relays; whoever called the relay goes on."""
    upstream.script = then("hang", *said)
    async with Relay(Timeouts(first_byte=0.3, idle=0.3), sweep_seconds=0.01) as relay:
        try:
            await soon(relay.forward("GET", upstream.url, [], None, _anything))
        except UpstreamTimeout:
            assert not said
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def _anything(_: object) -> None: ...
