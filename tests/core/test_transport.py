"""httpx2's requests over the relay's connections: what is sent, what comes back, and its own exceptions."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator

import httpx2
import pytest

from core.http.connections import Connections
from core.http.transport import Transport
from tests.fakes.upstream import Exchange, Script, Upstream, saying, then
from tests.fakes.wait import soon

SAID = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
WHOLE = SAID + b"Content-Length: 5\r\n\r\nhello"


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    made = Connections(1.0)
    yield made
    await made.close()


@pytest.fixture
async def client(connections: Connections) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=Transport(connections), timeout=5.0) as made:
        yield made


async def test_a_request_goes_as_it_was_built(upstream: Upstream, client: httpx2.AsyncClient) -> None:
    upstream.script = saying(WHOLE)
    url = str(upstream.url / "v1/x")
    answer = await soon(client.post(url + "?a=b%20c", json={"é": 1}, headers={"X-Own": "yes"}))
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (200, "hello", "text/plain")
    received = upstream.last
    assert received.line == b"POST /v1/x?a=b%20c HTTP/1.1"
    assert received.body == '{"é":1}'.encode()
    assert received.header(b"x-own") == b"yes"
    names = [name for name, _ in received.headers]
    assert names.count(b"host") == names.count(b"content-length") == 1
    assert b"connection" not in names


@pytest.mark.parametrize("value", [b"a\r\nx-other: b", b"a\nb", b"a\0"])
async def test_a_header_cannot_end_its_line(value: bytes, upstream: Upstream, client: httpx2.AsyncClient) -> None:
    with pytest.raises(httpx2.LocalProtocolError):
        await soon(client.get(str(upstream.url), headers=[(b"x-own", value)]))
    assert upstream.received == []


async def test_a_connection_serves_again_after_a_whole_answer(upstream: Upstream, client: httpx2.AsyncClient) -> None:
    upstream.script = saying(WHOLE)
    for _ in range(3):
        assert (await soon(client.get(str(upstream.url)))).text == "hello"
    assert upstream.connections == 1


async def test_pieces_come_as_they_are_sent(upstream: Upstream, client: httpx2.AsyncClient) -> None:
    upstream.script = saying(SAID + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n")
    async with client.stream("GET", str(upstream.url)) as answer:
        assert b"".join([piece async for piece in answer.aiter_raw()]) == b"abc"


async def test_what_is_compressed_is_read(upstream: Upstream, client: httpx2.AsyncClient) -> None:
    body = gzip.compress(b"hello")
    head = SAID + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    upstream.script = saying(head + body)
    assert (await soon(client.get(str(upstream.url)))).text == "hello"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (then("hang"), httpx2.ReadTimeout),
        (then("hang", SAID + b"Content-Length: 9\r\n\r\nhel"), httpx2.ReadTimeout),
        (then("close"), httpx2.RemoteProtocolError),
        (then("close", SAID + b"Content-Length: 9\r\n\r\nhel"), httpx2.RemoteProtocolError),
        (then("reset", SAID + b"Content-Length: 9\r\n\r\nhel"), httpx2.HTTPError),
        (then("close", b"what?\r\n\r\n"), httpx2.RemoteProtocolError),
    ],
)
async def test_failures_are_the_librarys_own(
    script: Script, error: type[Exception], upstream: Upstream, client: httpx2.AsyncClient
) -> None:
    upstream.script = script
    with pytest.raises(error):
        await soon(client.get(str(upstream.url), timeout=0.3))


async def test_nobody_there(client: httpx2.AsyncClient) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(httpx2.ConnectError):
            await soon(client.get(f"http://127.0.0.1:{port}/"))


async def test_who_never_answers_the_handshake(client: httpx2.AsyncClient) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        full = [socket.socket() for _ in range(2)]
        for one in full:
            one.setblocking(False)
            one.connect_ex(sock.getsockname())
        with pytest.raises(httpx2.ConnectTimeout):
            await soon(client.get(f"http://127.0.0.1:{sock.getsockname()[1]}/", timeout=0.3))
        for one in full:
            one.close()


async def test_who_leaves_closes_the_connection(upstream: Upstream, client: httpx2.AsyncClient) -> None:
    left = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.write(SAID + b"Content-Length: 9\r\n\r\nhel")
        await exchange.peer_left()
        left.set()

    upstream.script = script
    async with client.stream("GET", str(upstream.url)) as answer:
        assert await soon(anext(answer.aiter_raw())) == b"hel"
    await soon(left.wait())
