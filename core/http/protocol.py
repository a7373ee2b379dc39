"""uvicorn's HTTP protocol with bounds on a request's head, which uvicorn does not have, and fewer writes.

A head has at most so many headers and bytes and comes within so many seconds; what is wrong with it is said in the
envelope. What two servers could read in two ways is refused: another version than 1.0 and 1.1, two hosts, a transfer
coding besides chunked, a target that names another host. Trailers are dropped. An answer that begins before the body
has come ends the connection: the rest of the body is not read.

The head of an answer leaves with the first bytes of its body where they are there: uvicorn writes each ASGI message at
once, and writes on sockets are the dearest thing that the relay does.
"""

import asyncio
import functools
import re
from collections.abc import Callable
from typing import Any, Self, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from core.errors import HeadersTooLarge, InvalidRequest, RequestTimeout, SoundstageError, Unavailable

MAX_HEADERS = 100
LINGER_SECONDS = 0.5  # after the refusal of a head
UNREAD_SECONDS = 2.0  # after an answer whose request still comes
MAX_HEAD = 64 << 10  # bytes of a request's line and headers
MAX_UNFINISHED = 16 << 20
MAX_FRAMING = 1 << 20  # bytes within a body that bring nothing of it: extensions of chunks, trailers
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[0-9a-fA-F:.]+\])(?::\d{0,5})?", re.ASCII).fullmatch


class _RefusedHead(Exception):
    """The parser ends with it, and send_400_response says why."""


class _Discard(list[Any]):
    """Where trailers go: they would stand among the headers, after those were checked."""

    def append(self, _: object) -> None:
        pass


class UnfinishedHeads:
    """Bytes that all connections together hold of heads that have not ended."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0


class HttpProtocol(HttpToolsProtocol):
    head_seconds = 30.0
    """Longest from a connection's first moment, or from a later request's first byte, to the end of its head."""

    most_unfinished = MAX_UNFINISHED
    """Bytes of heads that have not ended, of all connections of a server."""

    @classmethod
    def of_a_server(cls) -> "functools.partial[Self]":
        """The protocol of one server, whose connections share that bound."""
        return functools.partial(cls, heads=UnfinishedHeads(cls.most_unfinished))

    def __init__(self, *args: Any, heads: UnfinishedHeads | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._heads = heads or UnfinishedHeads(self.most_unfinished)
        self._held = 0  # of them, by this connection
        self._framing = 0  # bytes since the last of a body came
        self._keeps = True
        self._head = 0  # bytes that came since the last body ended; some may be a body's
        self._in_head = True
        self._late: asyncio.TimerHandle | None = None
        self._refusal: SoundstageError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _GatheringTransport(transport, self.loop, self.leave_unread)))
        self._late = self.loop.call_later(self.head_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._hold(0)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._left():
            return
        if self._in_head:
            self._head += len(data)
        else:
            self._framing += len(data)
        super().data_received(data)
        if self._left():
            return
        if not self._in_head:
            if self._framing > MAX_FRAMING:
                self._refuse(InvalidRequest("The body's framing is larger than its content.", code="invalid_http"))
        elif self._head:
            self._head_goes_on()

    def _left(self) -> bool:
        """Whether the connection closes, whatever still comes."""
        return self._refusal is not None or self.transport.is_closing()

    def _head_goes_on(self) -> None:
        """Some of a head has come, and not its end."""
        if self._head > MAX_HEAD:
            self._refuse(_too_large())
        elif self._heads.held - self._held + self._head > self._heads.most:
            self._refuse(
                Unavailable("Too many requests have begun and not ended.", code="too_many_heads", retry_after=1)
            )
        else:
            self._hold(self._head)
            if self._late is None:
                self._late = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _hold(self, size: int) -> None:
        self._heads.held += size - self._held
        self._held = size

    def on_headers_complete(self) -> None:
        self._refusal = self._wrong()
        if self._refusal is not None:
            raise _RefusedHead
        self._in_head, self._head = False, 0
        if self._late is not None:
            self._head_came()
        if self._held:
            self._hold(0)
        super().on_headers_complete()
        self.headers = _Discard()
        # Until the body has come: an answer that begins before says that it ends the connection.
        self._keeps, self.cycle.keep_alive = self.cycle.keep_alive and not self.parser.should_upgrade(), False

    def on_body(self, body: bytes) -> None:
        self._framing = 0
        super().on_body(body)

    def _wrong(self) -> SoundstageError | None:
        """What is wrong with the head that has come."""
        if len(self.headers) > MAX_HEADERS or (self._head > MAX_HEAD and self._size() > MAX_HEAD):
            return _too_large()
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            return InvalidRequest("This is not HTTP/1.1.", code="invalid_http")
        host, codings = None, []
        for name, value in self.headers:
            if name == b"host":
                if host is not None:
                    return InvalidRequest("The request names two hosts.", param="host", code="invalid_host")
                host = value
            elif name == b"transfer-encoding":
                codings.append(value.lower())
        if (host is None and version == "1.1") or not _HOST(host or b""):
            return InvalidRequest(
                "The request needs one Host header, a name or address.", param="host", code="invalid_host"
            )
        if codings and (codings != [b"chunked"] or version == "1.0"):
            return InvalidRequest("A body is chunked, or has a length.", param="transfer-encoding", code="invalid_http")
        if not self.url.startswith(b"/") and not _names(self.url, host):
            return InvalidRequest("The target is a path, or names the host of the request.", code="invalid_target")
        return None

    def on_message_complete(self) -> None:
        self._in_head, self._framing = True, 0
        self.cycle.keep_alive = self._keeps
        super().on_message_complete()

    def shutdown(self) -> None:
        self._keeps = False
        super().shutdown()

    def leave_unread(self) -> bool:
        """Whether the connection closes while a body still comes. Closed at once, the answer would be lost: what comes
        is dropped for a moment more."""
        if self._in_head or self._refusal is not None:
            return False
        self._head_came()
        self.flow.resume_reading()
        self._late = self.loop.call_later(UNREAD_SECONDS, self.transport.close)
        return True

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what it cannot parse."""
        self._refuse(self._refusal or InvalidRequest("This is not HTTP/1.1.", code="invalid_http"))

    def _size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _head_is_late(self) -> None:
        self._late = None
        if self._answering():
            self._late = self.loop.call_later(self.head_seconds, self._head_is_late)
        elif self._head:
            text = f"The request's head did not arrive within {self.head_seconds:g} s."
            self._refuse(RequestTimeout(text, code="head_timeout"))
        else:
            self.transport.close()  # nothing was asked, so nothing is answered

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: SoundstageError) -> None:
        """Answer and close; only close where another answer has begun."""
        self._refusal = error
        self._head_came()
        if self._answering():
            begun = self.cycle.response_started
            self.cycle.disconnected = True  # for the application it is as if the client had left
            self.cycle.message_event.set()
            if begun:
                self.transport.close()
                return
        body = error.body()
        own = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = [b"HTTP/1.1 %d " % error.status, *(b"%s: %s" % pair for pair in (*own, *error.headers()))]
        self.transport.write(b"\r\n".join((*lines, b"", body)))
        # Closed while the client still sends, the answer would be lost: what comes is dropped for a moment more.
        self._late = self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _too_large() -> HeadersTooLarge:
    text = f"A request has at most {MAX_HEADERS} headers, of {MAX_HEAD} bytes with its first line."
    return HeadersTooLarge(text, code="headers_too_large")


def _names(target: bytes, host: bytes | None) -> bool:
    """Whether a target in absolute form is of this host."""
    scheme, _, rest = target.partition(b"://")
    return scheme.lower() in (b"http", b"https") and host is not None and rest.partition(b"/")[0] == host


class _GatheringTransport:
    """A transport that holds an answer's head until more is written, at most until the next turn of the loop.

    `lingers` is asked at a close whether the connection shall close later; then its sending side ends at once.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, lingers: Callable[[], bool]
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""
        self._lingers = lingers
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._held = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)

    def is_closing(self) -> bool:
        return self._ended or self._transport.is_closing()

    def close(self) -> None:
        self._flush()
        if not self._ended and not self._transport.is_closing() and self._lingers():
            self._ended = True
            self._transport.write_eof()
        else:
            self._transport.close()
