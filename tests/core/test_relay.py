"""The relay changes no byte: what the engine received and what the client received, against what was sent."""

import asyncio
import gzip
import json
import re
from pathlib import Path

import pytest

from core.http.end_to_end import CALLERS_OWN, INTERNAL, NOT_RETURNED, NOT_SENT, PROXIES
from tests.fakes.client import Answer, Headers, ask, connected, request
from tests.fakes.gateway import ENGINE_KEY, Gateway
from tests.fakes.upstream import Exchange, Upstream, saying
from tests.fakes.wait import soon

ROOT = Path(__file__).parents[2]
PATH = b"/v1/chat/completions"
JSON = (b"Content-Type", b"application/json")
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*parts: bytes) -> list[bytes]:
    """Chunks of a chunked body, and its end."""
    return [b"%x\r\n%s\r\n" % (len(part), part) for part in parts] + [b"0\r\n\r\n"]


def sized(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with a Content-Length."""
    lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def without(headers: Headers, names: frozenset[bytes]) -> Headers:
    return [(k, v) for k, v in headers if k not in names]


UTF8 = 'data: {"choices":[{"delta":{"content":"Grüße, 世界 🎭"}}]}\n\n'.encode()
DONE = b"data: [DONE]\n\n"

BODIES = {
    "plain": b'{"model":"m","messages":[{"role":"user","content":"hi"}]}',
    "unknown fields": b'{"model":"m","messages":[],"top_k":3,"x-new":{"deep":[1,{"a":null}]},"n":1.0}',
    "odd spacing": b' {\r\n\t"model" :\n"m" ,  "messages":[ ]\n}\n\n ',
    "duplicate keys and escapes": b'{"model":"a","model":"b","t":"\\u00e9\\/","e":1E+02,"big":12345678901234567890}',
    "not JSON": b"\x00\xff\xfe not json at all",
    "unicode": '{"content":"Grüße 世界 🎭 \u2028"}'.encode(),
    "1 MiB prompt": json.dumps({"model": "m", "prompt": "Lärm und Stille. " * (1 << 16)}).encode()[: 1 << 20],
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_request_body_reaches_the_engine_unchanged(gateway: Gateway, upstream: Upstream, body: bytes) -> None:
    upstream.script = saying(sized(b"{}"))
    assert (await ask(gateway.port, request(b"POST", PATH, [JSON], body))).status == 200
    assert upstream.last.body == body
    assert upstream.last.header(b"content-length") == b"%d" % len(body)


async def test_a_body_sent_in_chunks_reaches_the_engine_unchanged(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = saying(sized(b"{}"))
    head = request(b"POST", PATH, [JSON, (b"Transfer-Encoding", b"chunked")])
    await ask(gateway.port, head + b"".join(chunked(*(bytes([byte]) for byte in UTF8))))
    assert upstream.last.body == UTF8


async def test_request_headers_reach_the_engine_unchanged(gateway: Gateway, upstream: Upstream) -> None:
    sent = [
        JSON,
        (b"Accept", b"*/*;q=0.1"),
        (b"Accept-Encoding", b"gzip,  br"),
        (b"X-Quoted", b'a="1; 2"; b=%00'),
        (b"Content-Encoding", b"gzip"),
        (b"OpenAI-Organization", b"org"),
        (b"X-Twice", b"one"),
        (b"X-Twice", b"two"),
        (b"X-Empty", b""),
        (b"X-Utf8", "Grüße 🎭".encode()),
        (b"User-Agent", b"OpenAI/Python 3"),
    ]
    upstream.script = saying(sized(b"{}"))
    await ask(gateway.port, request(b"POST", PATH, sent, gzip.compress(b"{}")))
    assert sorted(without(upstream.last.headers, NOT_SENT)) == sorted((k.lower(), v) for k, v in sent)


async def test_headers_of_the_hop_and_of_the_caller_stay_here(gateway: Gateway, upstream: Upstream) -> None:
    sent = [
        (b"Authorization", b"Bearer caller-key"),
        (b"Proxy-Authorization", b"Basic x"),
        (b"Connection", b"keep-alive, X-Private"),
        (b"Keep-Alive", b"timeout=5"),
        (b"TE", b"trailers"),
        (b"X-Private", b"for this hop"),
        (b"Expect", b"100-continue"),
        (b"X-Request-Id", b"req-7"),
        *(
            (name.title(), b"not the caller's to say")
            for name in sorted((INTERNAL | CALLERS_OWN | PROXIES) - {b"authorization"})
        ),
        *((name, b"nor this") for name in (b"X-Soundstage-Anything", b"X-Forwarded-For", b"X-FORWARDED-Any")),
        (b"Proxy-Anything", b"nor this"),
    ]
    upstream.script = saying(sized(b"{}"))
    async with connected(gateway.port) as client:
        await client.send(request(b"POST", PATH, sent, b"{}"))
        assert (await client.head()).status == 100
        assert (await client.answer()).status == 200
    assert dict(upstream.last.headers) == {
        b"host": upstream.url.authority.encode(),
        b"content-length": b"2",
        b"authorization": b"Bearer " + ENGINE_KEY.encode(),
        b"x-request-id": b"req-7",
    }


def test_every_header_that_a_worker_is_told_by_is_an_orchestrators_alone() -> None:
    """A new one that is read anywhere must not pass from a caller either."""
    sources = (file.read_text() for folder in ("image", "llm", "vision") for file in (ROOT / folder).rglob("*.py"))
    read = {name.encode() for source in sources for name in re.findall(r'"(x-soundstage-[a-z-]+)"', source)}
    assert b"x-soundstage-tenant" in read
    assert read <= INTERNAL


async def test_nothing_is_added_to_a_bare_request(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = saying(sized(b"{}"))
    await ask(gateway.port, request(b"GET", PATH))
    assert {name for name, _ in upstream.last.headers} == {b"host", b"x-request-id", b"authorization"}


@pytest.mark.parametrize("bad", [b"Gr\xfc\xdfe", b"\xff"], ids=["latin-1", "no text"])
async def test_a_header_that_could_not_be_passed_on_unchanged_is_refused(
    gateway: Gateway, upstream: Upstream, bad: bytes
) -> None:
    answer = await ask(gateway.port, request(b"POST", PATH, [(b"X-Name", bad)], b"{}"))
    assert (answer.status, answer.error["code"]) == (400, "invalid_header")
    assert upstream.received == []


ANSWERS = {
    "json": sized(b'{ "choices" : [ ] ,\n"x":1}', b"Content-Type: application/json"),
    "empty body": sized(b"", b"Content-Type: application/json"),
    "400": sized(b'{"error":{"message":"no","type":"BadRequestError"}}', status=b"400 Bad Request"),
    "404": sized(b'{"error":{"code":404}}', status=b"404 Not Found"),
    "422": sized(b'{"detail":[{"loc":["body"]}]}', status=b"422 Unprocessable Content"),
    "429 with Retry-After": sized(b"busy", b"Retry-After: 7", status=b"429 Too Many Requests"),
    "500": sized(b"Internal Server Error", b"Content-Type: text/plain", status=b"500 Internal Server Error"),
    "gzip stays gzip": sized(gzip.compress(b'{"a":1}' * 99), b"Content-Encoding: gzip"),
    "broken gzip": sized(b"\x1f\x8b not really", b"Content-Encoding: gzip"),
    "cookies twice": sized(b"{}", b"Set-Cookie: a=1; Path=/", b"Set-Cookie: b=2", b"Server: engine", b"X-A:"),
    "redirect": sized(b"", b"Location: /elsewhere", status=b"307 Temporary Redirect"),
    "utf-8 header": sized(b"{}", "X-Name: Grüße".encode()),
    "latin-1 header": sized(b"{}", b"X-Name: Gr\xfc\xdfe"),
    "no content": b"HTTP/1.1 204 No Content\r\nX-Kept: 1\r\n\r\n",
    "not modified": b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\n\r\n',
    "chunked json": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunked(b'{"a"', b":1}")),
    "chunked, empty": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunked()),
    "sse": SSE_HEAD + b"".join(chunked(UTF8, UTF8 + DONE)),
    "sse, 1-byte chunks": SSE_HEAD + b"".join(chunked(*(bytes([byte]) for byte in UTF8 + DONE))),
    "1 MiB": sized(bytes(range(256)) * 4096, b"Content-Type: application/octet-stream"),
}


def parse(raw: bytes) -> Answer:
    """What a client that talked to the engine directly would have seen."""
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    headers = [(k.lower(), v.strip()) for k, _, v in (text.partition(b":") for text in lines)]
    if (b"transfer-encoding", b"chunked") in headers:
        pieces, rest = [], body
        while size := int((parts := rest.split(b"\r\n", 1))[0], 16):
            pieces.append(parts[1][:size])
            rest = parts[1][size + 2 :]
        body = b"".join(pieces)
    return Answer(int(line.split()[1]), headers, body)


@pytest.mark.parametrize("raw", ANSWERS.values(), ids=ANSWERS.keys())
async def test_the_answer_reaches_the_client_unchanged(gateway: Gateway, upstream: Upstream, raw: bytes) -> None:
    upstream.script = saying(raw)
    got, wanted = await ask(gateway.port, request(b"POST", PATH, [JSON], b"{}")), parse(raw)
    assert (got.status, got.body, got.whole) == (wanted.status, wanted.body, True)
    assert without(got.headers, NOT_RETURNED) == without(wanted.headers, NOT_RETURNED)


async def test_what_is_the_studios_to_say_an_engine_does_not_say(gateway: Gateway, upstream: Upstream) -> None:
    own = (b"Set-Cookie: a=1", b"X-RateLimit-Remaining-Tokens: 9", b"X-Soundstage-Tenant: a", b"X-Kept: 1")
    upstream.script = saying(sized(b"{}", *own))
    got = await ask(gateway.port, request(b"POST", PATH, [JSON], b"{}"))
    names = {name for name, _ in got.headers}
    assert b"x-kept" in names
    assert not [name for name in names if name.startswith((b"set-cookie", b"x-ratelimit", b"x-soundstage"))]


@pytest.mark.parametrize("step", [1, 7], ids=["byte by byte", "seven bytes at a time"])
async def test_an_answer_in_tiny_writes_is_put_together(gateway: Gateway, upstream: Upstream, step: int) -> None:
    raw = SSE_HEAD + b"".join(chunked(UTF8[:23], UTF8[23:], DONE))
    upstream.script = saying(*(raw[at : at + step] for at in range(0, len(raw), step)))
    assert (await ask(gateway.port, request(b"POST", PATH, [JSON], b"{}"))).body == UTF8 + DONE


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_length_without_a_body_does_not_break_the_answer(
    gateway: Gateway, upstream: Upstream, status: bytes
) -> None:
    upstream.script = saying(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n")
    async with connected(gateway.port) as client:
        for _ in range(2):
            await client.send(request(b"GET", PATH))
            answer = await client.answer()
            assert (answer.status, answer.header(b"content-length")) == (int(status[:3]), None)


async def test_head_keeps_its_length(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")
    async with connected(gateway.port) as client:
        for _ in range(2):  # the second shows that the connection is still in step
            await client.send(request(b"HEAD", PATH))
            assert (await client.answer(to=b"HEAD")).header(b"content-length") == b"1234"


async def test_the_query_reaches_the_engine(gateway: Gateway, upstream: Upstream) -> None:
    await ask(gateway.port, request(b"GET", PATH + b"?a=1&b=%C3%BC"))
    assert upstream.last.line == b"GET " + PATH + b"?a=1&b=%C3%BC HTTP/1.1"


async def test_each_chunk_is_forwarded_before_the_next_exists(gateway: Gateway, upstream: Upstream) -> None:
    seen = asyncio.Event()
    events = [b"data: %d\n\n" % n for n in range(5)]

    async def script(exchange: Exchange) -> None:
        await exchange.write(SSE_HEAD)
        for chunk in chunked(*events):
            await exchange.write(chunk)
            await soon(seen.wait())
            seen.clear()

    upstream.script = script
    async with connected(gateway.port) as client:
        await client.send(request(b"POST", PATH, [JSON], b"{}"))
        await client.head()
        for event in [*events, b""]:
            assert await client.chunk() == event
            seen.set()


async def test_the_head_is_forwarded_before_the_first_chunk_exists(gateway: Gateway, upstream: Upstream) -> None:
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.write(SSE_HEAD)
        await soon(seen.wait())
        await exchange.write(b"".join(chunked(DONE)))

    upstream.script = script
    async with connected(gateway.port) as client:
        await client.send(request(b"POST", PATH, [JSON], b"{}"))
        assert (await client.head()).status == 200
        seen.set()
        assert await client.chunk() == DONE


async def test_connections_are_kept_on_both_sides(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = saying(SSE_HEAD, *chunked(DONE))
    async with connected(gateway.port) as client:
        for _ in range(3):
            await client.send(request(b"POST", PATH, [JSON], b"{}"))
            assert (await client.answer()).body == DONE
    assert (len(upstream.received), upstream.connections) == (3, 1)
