"""What a client may send before anybody looks at it: heads bounded in number, bytes and time; bodies in time; lengths
that lie; JSON that nests. Each over a real socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.types import Receive, Scope, Send

from core.http.body import read_body
from core.http.protocol import MAX_HEAD, MAX_HEADERS, HttpProtocol
from core.http.serving import bind, server_config
from core.http.shell import CONTROL_BODY, send_json
from core.service import create_service
from core.settings import Settings
from tests.fakes.client import ask, connected, request
from tests.fakes.wait import eventually, soon


class Impatient(HttpProtocol):
    head_seconds = 0.2


class _Server(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@asynccontextmanager
async def running(http: type[HttpProtocol], body_seconds: float) -> AsyncIterator[int]:
    """The port of a service that waits so long."""
    api = FastAPI()

    @api.post("/json")
    async def json(value: dict[str, object]) -> int:
        return len(value)

    @api.post("/read")
    async def read(http: Request) -> int:
        return len(await http.body())

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, {"bytes": len(await read_body(receive, body_seconds))})

    app = create_service("limits", api, Settings.load(body_seconds=body_seconds), routes={"/raw": {"POST": echo}})
    sock = bind("127.0.0.1", 0)
    server = _Server(server_config(app, http))
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    await eventually(lambda: server.started, "the server's start")
    yield sock.getsockname()[1]
    server.should_exit = True
    await soon(serving)


@pytest.fixture(scope="module")
async def port() -> AsyncIterator[int]:
    async with running(HttpProtocol, 60) as found:
        yield found


@pytest.fixture(scope="module")
async def impatient() -> AsyncIterator[int]:
    """Its limits of time are short: for what never comes."""
    async with running(Impatient, 0.2) as found:
        yield found


def headed(number: int, size: int) -> bytes:
    return request(b"GET", b"/healthz", [(b"x-%d" % at, b"v" * size) for at in range(number)])


HEADS: dict[str, tuple[bytes, int, str | None]] = {
    "as many headers as may be": (headed(MAX_HEADERS - 1, 1), 200, None),  # and the host
    "one header more": (headed(MAX_HEADERS, 1), 431, "headers_too_large"),
    "as large as may be": (headed(1, MAX_HEAD - 100), 200, None),
    "a header that is larger": (headed(1, MAX_HEAD), 431, "headers_too_large"),
    "headers that are larger together": (headed(50, MAX_HEAD // 50), 431, "headers_too_large"),
    "a path that is larger": (request(b"GET", b"/" + b"a" * MAX_HEAD), 431, "headers_too_large"),
    "a header without end": (b"GET / HTTP/1.1\r\nx: " + b"v" * 2 * MAX_HEAD, 431, "headers_too_large"),
    "not HTTP": (b"\x16\x03\x01 hello\r\n\r\n", 400, "invalid_http"),
    "a length that is no number": (
        b"POST /raw HTTP/1.1\r\nhost: a\r\ncontent-length: ten\r\n\r\n",
        400,
        "invalid_http",
    ),
    "two lengths": (
        b"POST /raw HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        400,
        "invalid_http",
    ),
    "a length and chunks": (
        b"POST /raw HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "invalid_http",
    ),
    "a length below zero": (b"POST /raw HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", 400, "invalid_http"),
}


@pytest.mark.parametrize(("sent", "status", "code"), HEADS.values(), ids=HEADS.keys())
async def test_a_head_is_bounded(port: int, sent: bytes, status: int, code: str | None) -> None:
    async with connected(port) as client:
        await client.send(sent)
        answer = await client.answer()
        assert answer.status == status
        if code is not None:
            assert answer.error["code"] == code
            assert await client.closed() == b""


async def test_a_head_that_does_not_end_is_a_408_and_silence_is_closed(impatient: int) -> None:
    async with connected(impatient) as client, connected(impatient) as silent:
        await client.send(b"GET /healthz HTTP/1.1\r\nhost: a\r\n")
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (408, "head_timeout")
        assert await silent.closed() == b""


async def test_the_second_head_of_a_connection_is_bounded_too(impatient: int) -> None:
    async with connected(impatient) as client:
        for _ in range(2):
            await client.send(request(b"GET", b"/healthz"))
            assert (await client.answer()).status == 200
        await client.send(b"GET /healthz HTTP/1.1\r\n")
        assert (await client.answer()).status == 408


@pytest.mark.parametrize("path", [b"/raw", b"/json", b"/read"])
async def test_a_length_that_promises_more_than_comes_is_a_408(impatient: int, path: bytes) -> None:
    sent = request(b"POST", path, [(b"content-type", b"application/json")], b'{"a": 1}')
    async with connected(impatient) as client:
        await client.send(sent.replace(b"Content-Length: 8", b"Content-Length: 800"))
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (408, "body_timeout")


async def test_a_length_that_promises_less_leaves_a_second_request_that_is_none(port: int) -> None:
    sent = request(b"POST", b"/raw", body=b"0123456789 and more")
    async with connected(port) as client:
        await client.send(sent.replace(b"Content-Length: 19", b"Content-Length: 10"))
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (400, "invalid_http")
        assert await client.closed() == b""


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["lists", "objects"])
@pytest.mark.parametrize("depth", [900, 5_000, 1_000_000])
async def test_json_that_nests_is_never_a_fault_of_ours(port: int, opening: bytes, depth: int) -> None:
    body = b'{"x":' + opening * depth
    answer = await ask(port, request(b"POST", b"/json", [(b"content-type", b"application/json")], body))
    assert answer.status == (400 if len(body) <= CONTROL_BODY else 413)
