"""A client that leaves frees the engine at once, whatever the relay waits for; a slow one holds the engine back."""

import asyncio
import socket

import pytest
from starlette.types import Message
from yarl import URL

from core.errors import RequestTimeout
from core.http.body import read_body
from core.http.disconnect import ClientDisconnected
from core.http.relay import Outcome
from tests.fakes.client import connected, request
from tests.fakes.gateway import Gateway
from tests.fakes.upstream import Exchange, Upstream, saying
from tests.fakes.wait import soon

CHAT = request(b"POST", b"/v1/chat/completions", [(b"Content-Type", b"application/json")], b'{"stream":true}')
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"9\r\ndata: 1\n\n\r\n"
MIB = 1 << 20


class Waiting:
    """An engine that says `parts`, then waits for the relay to hang up."""

    def __init__(self, upstream: Upstream, *parts: bytes) -> None:
        self.asked, self.left = asyncio.Event(), asyncio.Event()
        self._parts = parts
        upstream.script = self._script

    async def _script(self, exchange: Exchange) -> None:
        for part in self._parts:
            await exchange.write(part)
        self.asked.set()
        await exchange.peer_left()
        self.left.set()


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (SSE_HEAD,),
        (SSE_HEAD, CHUNK),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",),
    ],
    ids=["before the first byte", "after the head", "mid-stream", "mid-json"],
)
async def test_the_engine_sees_its_connection_close(
    gateway: Gateway, upstream: Upstream, parts: tuple[bytes, ...]
) -> None:
    engine = Waiting(upstream, *parts)
    async with connected(gateway.port) as client:
        await client.send(CHAT)
        await soon(engine.asked.wait())
        if parts:
            await client.head()
        client.leave()
        await soon(engine.left.wait())
    assert isinstance(await soon(gateway.outcomes.get()), ClientDisconnected)


async def test_leaving_while_the_relay_still_connects(gateway: Gateway) -> None:
    """Nothing accepts on this listener and its queue is full, so the handshake never ends."""
    with socket.socket() as full, socket.socket() as filler:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        filler.connect(full.getsockname())
        gateway.engine = URL(f"http://127.0.0.1:{full.getsockname()[1]}")
        async with connected(gateway.port) as client:
            await client.send(CHAT)
            await soon(gateway.forwarding.wait())
            client.leave()
        assert isinstance(await soon(gateway.outcomes.get()), ClientDisconnected)


async def test_leaving_before_the_body_is_whole_asks_no_engine(gateway: Gateway, upstream: Upstream) -> None:
    async with connected(gateway.port) as client:
        await client.send(CHAT[:-1])
        client.leave()
        assert isinstance(await soon(gateway.outcomes.get()), ClientDisconnected)
    assert upstream.received == []


async def test_an_answered_request_is_no_disconnect(gateway: Gateway, upstream: Upstream) -> None:
    """uvicorn says `http.disconnect` once the answer is out; the relay has ended by then."""
    upstream.script = saying(SSE_HEAD, CHUNK, b"0\r\n\r\n")
    async with connected(gateway.port) as client:
        await client.send(CHAT)
        await client.answer()
    assert await soon(gateway.outcomes.get()) == Outcome(200, 9, complete=True)


async def test_others_go_on_when_one_leaves(gateway: Gateway, upstream: Upstream) -> None:
    engine = Waiting(upstream, SSE_HEAD, CHUNK)
    async with connected(gateway.port) as leaver:
        await leaver.send(CHAT)
        await soon(engine.asked.wait())
        proceed = asyncio.Event()

        async def stays(exchange: Exchange) -> None:
            await exchange.write(SSE_HEAD)
            await soon(proceed.wait())
            await exchange.write(CHUNK + b"0\r\n\r\n")

        upstream.script = stays
        async with connected(gateway.port) as stayer:
            await stayer.send(CHAT)
            await stayer.head()
            leaver.leave()
            await soon(engine.left.wait())
            proceed.set()
            assert await stayer.chunk() == b"data: 1\n\n"
            assert await stayer.chunk() == b""


async def test_a_client_that_does_not_read_holds_back_the_engine(gateway: Gateway, upstream: Upstream) -> None:
    """What lies between them is bounded by socket buffers, not by the answer's size; and nothing of it is lost."""
    total = 96 * MIB
    stuck: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    block = bytes(range(256)) * 256

    async def script(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for said in range(0, total, len(block)):
            writing = asyncio.ensure_future(exchange.write(block))
            done, _ = await asyncio.wait([writing], timeout=None if stuck.done() else 0.5)
            if not done and not stuck.done():
                stuck.set_result(said)
            await writing

    upstream.script = script
    async with connected(gateway.port, receive_buffer=65536) as client:
        await client.send(CHAT)
        assert await soon(stuck) < total // 2
        answer = await client.answer()
    assert answer.whole
    assert answer.body == block * (total // len(block))


BODIES: dict[str, tuple[list[Message], bytes]] = {
    "one message": ([{"type": "http.request", "body": b"{}", "more_body": False}], b"{}"),
    "no body": ([{"type": "http.request"}], b""),
    "parts": (
        [
            {"type": "http.request", "body": b"{", "more_body": True},
            {"type": "http.request", "more_body": True},
            {"type": "http.request", "body": b"}"},
        ],
        b"{}",
    ),
}


@pytest.mark.parametrize(("messages", "body"), BODIES.values(), ids=BODIES.keys())
async def test_read_body_joins_what_comes(messages: list[Message], body: bytes) -> None:
    left = iter(messages)

    async def receive() -> Message:
        return next(left)

    assert await read_body(receive) == body


@pytest.mark.parametrize("first", [[], [b"{"]], ids=["nothing came", "half came"])
async def test_read_body_is_bounded_in_time_and_notices_who_left(first: list[bytes]) -> None:
    def client(then: Message | None) -> asyncio.Queue[Message]:
        queue: asyncio.Queue[Message] = asyncio.Queue()
        for part in first:
            queue.put_nowait({"type": "http.request", "body": part, "more_body": True})
        if then is not None:
            queue.put_nowait(then)
        return queue

    with pytest.raises(RequestTimeout) as caught:
        await read_body(client(None).get, timeout=0.01)
    assert (caught.value.status, caught.value.code) == (408, "body_timeout")
    with pytest.raises(ClientDisconnected):
        await read_body(client({"type": "http.disconnect"}).get)
