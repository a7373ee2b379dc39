"""What two servers could read in two ways is refused or means one thing: versions, hosts, lengths, codings, targets,
encoded slashes, trailers. And who is answered before the body has come is left. Each over a real socket."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.types import Receive, Scope, Send

from core.errors import Unauthenticated
from core.http.body import read_body
from core.http.protocol import MAX_FRAMING, HttpProtocol
from core.http.shell import send_json
from core.paths import unescaped
from core.service import create_service
from core.settings import Settings
from tests.fakes.client import ask, connected, request
from tests.fakes.serving import serving

KEY = (b"authorization", b"Bearer k")
END = b"\r\n\r\n"


async def entry(scope: Scope) -> None:
    if KEY not in scope["headers"]:
        raise Unauthenticated("no", code="missing_api_key")


def service() -> Any:
    api = FastAPI()

    @api.get("/things/{name}")
    async def thing(name: str) -> dict[str, str]:
        return {"thing": name}

    @api.get("/things/{name}/parts")
    async def parts(name: str) -> dict[str, str]:
        return {"parts": name}

    @api.get("/models/{name:path}")
    async def model(name: str) -> dict[str, str]:
        return {"model": unescaped(name)}

    @api.post("/headers")
    async def headers(http: Request) -> list[str]:
        await http.body()
        return [name.decode() for name, _ in http.scope["headers"]]

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        await send_json(send, {"bytes": len(body), "headers": [name.decode() for name, _ in scope["headers"]]})

    return create_service("edges", api, Settings.load(), routes={"/raw": {"POST": echo}}, authorise=entry)


@pytest.fixture(scope="module")
async def port() -> AsyncIterator[int]:
    async with serving(service()) as found:
        yield found


def line(first: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((first, b"authorization: Bearer k", *headers)) + END


HOST = b"host: a"
CHUNKED = b"transfer-encoding: chunked"
REFUSED: dict[str, tuple[bytes, str]] = {
    "HTTP/0.9 without a version": (b"GET /things/a" + END, "invalid_http"),
    "HTTP/0.9": (line(b"GET /things/a HTTP/0.9", HOST), "invalid_http"),
    "HTTP/2.0": (line(b"GET /things/a HTTP/2.0", HOST), "invalid_http"),
    "HTTP/2's preface": (b"PRI * HTTP/2.0" + END + b"SM" + END, "invalid_http"),
    "HTTP/3.0": (line(b"GET /things/a HTTP/3.0", HOST), "invalid_http"),
    "HTTP/1.2": (line(b"GET /things/a HTTP/1.2", HOST), "invalid_http"),
    "no host": (line(b"GET /things/a HTTP/1.1"), "invalid_host"),
    "two hosts": (line(b"GET /things/a HTTP/1.1", HOST, b"host: b"), "invalid_host"),
    "the same host twice": (line(b"GET /things/a HTTP/1.1", HOST, HOST), "invalid_host"),
    "two hosts of HTTP/1.0": (line(b"GET /things/a HTTP/1.0", HOST, HOST), "invalid_host"),
    "a host with a path": (line(b"GET /things/a HTTP/1.1", b"host: a/b"), "invalid_host"),
    "a host with a user": (line(b"GET /things/a HTTP/1.1", b"host: b@a"), "invalid_host"),
    "a host of two words": (line(b"GET /things/a HTTP/1.1", b"host: a b"), "invalid_host"),
    "two lengths": (line(b"POST /raw HTTP/1.1", HOST, b"content-length: 1", b"content-length: 2"), "invalid_http"),
    "a length twice": (line(b"POST /raw HTTP/1.1", HOST, b"content-length: 1", b"content-length: 1"), "invalid_http"),
    "a list of lengths": (line(b"POST /raw HTTP/1.1", HOST, b"content-length: 1, 1"), "invalid_http"),
    "a length with a sign": (line(b"POST /raw HTTP/1.1", HOST, b"content-length: +1"), "invalid_http"),
    "a length and chunks": (line(b"POST /raw HTTP/1.1", HOST, b"content-length: 1", CHUNKED), "invalid_http"),
    "chunks and a length": (line(b"POST /raw HTTP/1.1", HOST, CHUNKED, b"content-length: 1"), "invalid_http"),
    "chunks twice": (line(b"POST /raw HTTP/1.1", HOST, CHUNKED, CHUNKED), "invalid_http"),
    "one more coding": (line(b"POST /raw HTTP/1.1", HOST, b"transfer-encoding: gzip, chunked"), "invalid_http"),
    "identity": (line(b"POST /raw HTTP/1.1", HOST, b"transfer-encoding: identity"), "invalid_http"),
    "nearly chunked": (line(b"POST /raw HTTP/1.1", HOST, b"transfer-encoding: xchunked"), "invalid_http"),
    "chunks of HTTP/1.0": (line(b"POST /raw HTTP/1.0", HOST, CHUNKED), "invalid_http"),
    "a space before the colon": (line(b"POST /raw HTTP/1.1", HOST, b"content-length : 1"), "invalid_http"),
    "a folded header": (line(b"GET /things/a HTTP/1.1", HOST, b"x: a", b" b"), "invalid_http"),
    "a bare line feed": (b"GET /things/a HTTP/1.1\nhost: a\n\n", "invalid_http"),
    "a bare carriage return": (line(b"GET /things/a HTTP/1.1", b"host: a\rx: b"), "invalid_http"),
    "NUL in a header": (line(b"GET /things/a HTTP/1.1", HOST, b"x: a\0b"), "invalid_http"),
    "another scheme": (line(b"GET ftp://a/things/a HTTP/1.1", HOST), "invalid_target"),
    "another host": (line(b"GET http://b/things/a HTTP/1.1", HOST), "invalid_target"),
    "no path": (line(b"GET http://a HTTP/1.1", HOST), "invalid_http"),
    "a tunnel": (line(b"CONNECT a:80 HTTP/1.1", HOST), "invalid_target"),
    "an asterisk": (line(b"OPTIONS * HTTP/1.1", HOST), "invalid_target"),
    "bytes in the path": (line(b"GET /\xc3\xa9 HTTP/1.1", HOST), "invalid_http"),
    "a chunk's size with a prefix": (line(b"POST /raw HTTP/1.1", HOST, CHUNKED) + b"0x1\r\na\r\n", "invalid_http"),
    "a chunk of more than can be": (line(b"POST /raw HTTP/1.1", HOST, CHUNKED) + b"f" * 17 + b"\r\n", "invalid_http"),
    "a chunk's extension without end": (
        line(b"POST /raw HTTP/1.1", HOST, CHUNKED) + b"1;" + b"x" * 2 * MAX_FRAMING,
        "invalid_http",
    ),
    "a trailer without end": (
        line(b"POST /raw HTTP/1.1", HOST, CHUNKED) + b"0\r\nx: " + b"x" * 2 * MAX_FRAMING,
        "invalid_http",
    ),
    "trailers without end": (
        line(b"POST /raw HTTP/1.1", HOST, CHUNKED) + b"0\r\n" + b"x: y\r\n" * (MAX_FRAMING // 3),
        "invalid_http",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_can_be_read_in_two_ways_is_refused(port: int, sent: bytes, code: str) -> None:
    async with connected(port) as client:
        await client.send(sent)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (400, code)
        assert await client.closed() == b""


TAKEN: dict[str, bytes] = {
    "HTTP/1.0 without a host": line(b"GET /things/a HTTP/1.0"),
    "a host with a port": line(b"GET /things/a HTTP/1.1", b"host: a.b-c_d:8000"),
    "an address": line(b"GET /things/a HTTP/1.1", b"host: [::1]:8000"),
    "an empty host": line(b"GET /things/a HTTP/1.1", b"host:"),
    "this host": line(b"GET http://a:1/things/a HTTP/1.1", b"host: a:1"),
    "an upgrade that is not made": line(
        b"GET /things/a HTTP/1.1", HOST, b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AA"
    ),
    "a web socket that is not made": line(
        *(b"GET /things/a HTTP/1.1", HOST, b"connection: upgrade", b"upgrade: websocket"),
        *(b"sec-websocket-version: 13", b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="),
    ),
}


@pytest.mark.parametrize("sent", TAKEN.values(), ids=TAKEN.keys())
async def test_what_means_one_thing_is_answered(port: int, sent: bytes) -> None:
    answer = await ask(port, sent)
    assert (answer.status, answer.json()) == (200, {"thing": "a"})


PATHS: dict[bytes, tuple[int, Any]] = {
    b"/things/a%2Fparts": (200, {"thing": "a%2Fparts"}),
    b"/things/a%2fparts": (200, {"thing": "a%2fparts"}),
    b"/things/a%5Cparts": (200, {"thing": "a%5Cparts"}),
    b"/things/a%252Fparts": (200, {"thing": "a%2Fparts"}),
    b"/things%2Fa": (404, None),
    b"/%2Fthings/a": (404, None),
    b"//things/a": (404, None),
    b"/th%69ngs/a": (200, {"thing": "a"}),
    b"/things/%E2%82%AC": (200, {"thing": "€"}),
    b"/models/org%2Fname": (200, {"model": "org/name"}),
    b"/models/org/name": (200, {"model": "org/name"}),
    b"/things/../things/a": (400, "invalid_path"),
    b"/things/%2e%2e/things/a": (400, "invalid_path"),
    b"/models/%2e%2e": (400, "invalid_path"),
    b"/models/.": (400, "invalid_path"),
    b"/things/a%00b": (400, "invalid_path"),
    b"/things/a%0d%0ab": (400, "invalid_path"),
    b"/things/%ff": (400, "invalid_path"),
    b"/things/%ed%a0%80": (400, "invalid_path"),
    b"/things/%zz": (400, "invalid_path"),
    b"/things/%2": (400, "invalid_path"),
    b"/things/a?b=%00": (400, "invalid_query"),
    b"/things/a?%00": (400, "invalid_query"),
    b"/things/a?b=%ff": (200, {"thing": "a"}),
    b"/things/...": (200, {"thing": "..."}),
}


@pytest.mark.parametrize(("path", "expected"), PATHS.items(), ids=[path.decode() for path in PATHS])
async def test_an_encoded_slash_leads_to_no_other_route(port: int, path: bytes, expected: tuple[int, Any]) -> None:
    answer = await ask(port, request(b"GET", path, [KEY]))
    status, said = expected
    assert answer.status == status
    if status == 200:
        assert answer.json() == said
    elif status == 400:
        assert answer.error["code"] == said


async def test_trailers_are_dropped(port: int) -> None:
    body = b"1\r\na\r\n0\r\nx-soundstage-tenant: other\r\nauthorization: Bearer other\r\n\r\n"
    for path in (b"/raw", b"/headers"):
        async with connected(port) as client:
            for _ in range(2):
                await client.send(request(b"POST", path, [KEY, (b"Transfer-Encoding", b"chunked")]) + body)
                answer = await client.answer()
                assert answer.status == 200
                assert b"tenant" not in answer.body


@pytest.mark.parametrize("framing", [(b"Content-Length", b"1000"), (b"Transfer-Encoding", b"chunked")])
@pytest.mark.parametrize("path", [b"/raw", b"/headers", b"/nowhere"])
async def test_without_a_key_half_a_body_is_answered_at_once_and_the_rest_never_read(
    port: int, path: bytes, framing: tuple[bytes, bytes]
) -> None:
    async with connected(port) as client:
        await client.send(request(b"POST", path, [framing]) + b"1f4\r\nhalf of it")
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (401, "missing_api_key")
        assert answer.header(b"connection") == b"close"
        assert await client.closed() == b""


async def test_a_client_that_waits_for_100_is_told_no_instead(port: int) -> None:
    async with connected(port) as client:
        expects = [(b"Expect", b"100-continue"), (b"Content-Length", b"1000")]
        await client.send(request(b"POST", b"/raw", expects))
        assert (await client.answer()).status == 401


async def test_a_whole_request_without_a_key_leaves_its_connection_open(port: int) -> None:
    async with connected(port) as client:
        for _ in range(2):
            await client.send(request(b"POST", b"/raw", body=b"all of it"))
            answer = await client.answer()
            assert (answer.status, answer.header(b"connection")) == (401, None)


class Bounded(HttpProtocol):
    most_unfinished = 100


async def test_heads_that_do_not_end_are_bounded_over_all_connections() -> None:
    begun = b"GET /things/a HTTP/1.1\r\nx: " + b"y" * 60
    async with serving(service(), Bounded) as port:
        async with connected(port) as first:
            await first.send(begun)
            async with connected(port) as second:
                await second.send(begun)
                answer = await second.answer()
                assert (answer.status, answer.error["code"]) == (503, "too_many_heads")
                assert answer.header(b"retry-after") == b"1"
            await first.send(b"\r\nhost: a\r\nauthorization: Bearer k\r\n\r\n")
            assert (await first.answer()).status == 200
        async with connected(port) as third:  # the bytes of a head that has ended are free
            await third.send(begun)
            await third.send(b"\r\nhost: a\r\nauthorization: Bearer k\r\n\r\n")
            assert (await third.answer()).status == 200
