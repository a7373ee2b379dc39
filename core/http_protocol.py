"""uvicorn's HTTP protocol with bounds on a request's head, which uvicorn does not have, and fewer writes.

A head has at most so many headers and bytes and comes within so many seconds; what is wrong with it is said in the
envelope. The head of an answer leaves with the first bytes of its body where they are there: uvicorn writes each ASGI
message at once, and writes on sockets are the dearest thing that the relay does.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from core.errors import HeadersTooLarge, InvalidRequest, RequestTimeout, SoundstageError

MAX_HEADERS = 100
LINGER_SECONDS = 0.5
MAX_HEAD = 64 << 10  # bytes of a request's line and headers


class _RefusedHead(Exception):
    """The parser ends with it, and send_400_response says why."""


class HttpProtocol(HttpToolsProtocol):
    head_seconds = 30.0
    """Longest from a connection's first moment, or from a later request's first byte, to the end of its head."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0  # bytes that came since the last body ended; some may be a body's
        self._in_head = True
        self._late: asyncio.TimerHandle | None = None
        self._refusal: SoundstageError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Gathering(transport, self.loop)))
        self._late = self.loop.call_later(self.head_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return  # the connection is closing
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if not self._in_head or not self._head or self._refusal is not None:
            return
        if self._head > MAX_HEAD:
            self._refuse(_too_large())
        elif self._late is None:
            self._late = self.loop.call_later(self.head_seconds, self._head_is_late)

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_HEADERS or (self._head > MAX_HEAD and self._size() > MAX_HEAD):
            self._refusal = _too_large()
            raise _RefusedHead
        self._in_head, self._head = False, 0
        if self._late is not None:
            self._head_came()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

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
        self.transport.write(
            b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (error.status, len(body), body)
        )
        # Closed while the client still sends, the answer would be lost: what comes is dropped for a moment more.
        self._late = self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _too_large() -> HeadersTooLarge:
    text = f"A request has at most {MAX_HEADERS} headers, of {MAX_HEAD} bytes with its first line."
    return HeadersTooLarge(text, code="headers_too_large")


class _Gathering:
    """A transport that holds an answer's head until more is written, at most until the next turn of the loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

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

    def close(self) -> None:
        self._flush()
        self._transport.close()
