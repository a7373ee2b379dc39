"""What a broken or hostile server answers, whatever it is asked: each a script for tests/fakes/upstream.py."""

import gzip
import json

from tests.fakes.upstream import Exchange, Script, saying, then

JSON = b"application/json"


def answer(body: bytes, kind: bytes = JSON, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    head = [b"HTTP/1.1 " + status, b"content-type: " + kind, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


async def endless(exchange: Exchange) -> None:
    """A body without an end, as fast as it is taken."""
    await exchange.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"data":"')
    while True:
        await exchange.write(b"a" * 65536)


async def unfolding(exchange: Exchange) -> None:
    """A gzip stream without an end: a few bytes that unfold to many."""
    packed = gzip.compress(bytes(1 << 20))
    await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n\r\n")
    while True:
        await exchange.write(packed)


def _listing(entry: object) -> bytes:
    return json.dumps({"data": [entry], "choices": [entry], "results": entry, "tokens": entry, "found": "x"}).encode()


FAULTS: dict[str, Script] = {
    "a charset that decodes no text": saying(answer(b"{}", b"application/json; charset=hex")),
    "a charset that nobody knows": saying(answer(b"{}", b"application/json; charset=zzz")),
    "bytes that are no UTF-8": saying(answer(b'{"data": "\xff"}')),
    "no gzip": saying(answer(b"not gzip", JSON, b"content-encoding: gzip")),
    "gzip cut short": saying(answer(gzip.compress(b"{}" * 99)[:-9], JSON, b"content-encoding: gzip")),
    "a compression that nobody knows": saying(answer(b"{}", JSON, b"content-encoding: zzz")),
    "a list": saying(answer(b"[]")),
    "null": saying(answer(b"null")),
    "a number": saying(answer(b"5")),
    "nothing": saying(answer(b"")),
    "entries of another type": saying(answer(_listing(5))),
    "entries that are null": saying(answer(_listing(None))),
    "entries with NUL": saying(answer(_listing({"id": "a\0b", "message": {"content": "a\0b"}, "b64_json": "\0"}))),
    "entries of other fields": saying(answer(_listing({"id": 1, "message": [], "b64_json": {}, "flagged": 1}))),
    "a number of 5,000 digits": saying(answer(b'{"data": %s}' % (b"9" * 5000))),
    "a number out of range": saying(answer(b'{"data": 1e999}')),
    "JSON nested 100,000 deep": saying(answer(b"[" * 100_000)),
    "half a surrogate": saying(answer(b'{"data": [{"id": "\\ud800"}]}')),
    "not HTTP": then("close", b"\x15\x03\x01\x00\x02\x02\x50"),
    "a status of letters": then("close", b"HTTP/1.1 abc OK\r\n\r\n"),
    "a status that nobody has": then("close", b"HTTP/1.1 999 Odd\r\ncontent-length: 2\r\n\r\n{}"),
    "a status past the last": then("close", b"HTTP/1.1 600 Odd\r\ncontent-length: 2\r\n\r\n{}"),
    "another protocol": then("close", b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
    "a header without a name": then("close", b"HTTP/1.1 200 OK\r\n: x\r\ncontent-length: 2\r\n\r\n{}"),
    "a header of 100 kB": then("close", b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000 + b"\r\n\r\n{}"),
    "headers that are no text": saying(answer(b"{}", JSON, b"x-messages-sha256: \xff\xfe", b"set-cookie: \xff=;;")),
    "a wait that is no number": saying(answer(b"{}", JSON, b"retry-after: \xb2", status=b"429 Full")),
    "a wait without an end": saying(answer(b"{}", JSON, b"retry-after: " + b"9" * 400, status=b"429 Full")),
    "two lengths": then("close", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 9\r\n\r\n{}"),
    "a length that is none": then("close", b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n{}"),
    "chunks that are none": then("close", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}"),
    "an error of another shape": saying(answer(b'{"error": {"message": [1], "code": {}}}', status=b"400 No")),
    "an error that is no text": saying(answer(b"\xff\xfe", b"text/plain; charset=hex", status=b"500 No")),
    "a way to nowhere": saying(answer(b"", JSON, b"location: http://[::bad", status=b"302 Found")),
    "a way to itself": saying(answer(b"", JSON, b"location: /v1/models", status=b"302 Found")),
    "a body cut short": then("close", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}"),
    "silence": then("close"),
    "a reset": then("reset"),
    "a body without an end": endless,
    "gzip that unfolds without an end": unfolding,
}

EVENTS: dict[str, bytes] = {
    "an event that is no JSON": b"data: {\n\n",
    "an event of another type": b"data: 5\n\n",
    "an event without a type": b'data: {"b64_json": 5}\n\n',
    "an event whose picture is none": b'data: {"type": "image_generation.completed", "b64_json": 5}\n\n',
    "an event that is no UTF-8": b'data: {"type": "\xff"}\n\n',
    "an event nested deep": b"data: " + b"[" * 100_000 + b"\n\n",
    "an error of another shape": b'event: error\ndata: {"error": 5}\n\n',
}
