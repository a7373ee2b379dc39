"""Requests to engines over aiohttp's pooled connections, without the objects its client makes for each of them.

A relay knows the bytes of its request and wants those of the answer. aiohttp connects, pools, speaks TLS and parses;
its ClientSession on top would cost more than the rest of the relay (bench/relay), so the request is written here.
"""

import asyncio
import functools
from collections.abc import Iterable

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy
from yarl import URL

from core.addresses import may_serve
from core.egress import judging_sockets
from core.untrusted import UNCOMPRESSED

MAX_CONNECTIONS = 4096
MAX_ORIGINS = 1024
KEEPALIVE_SECONDS = 4.0  # below vLLM's 5 s, so that a kept connection is not closed under a new request
SWITCHING, LAST_STATUS = 101, 599
"""Nobody asked for another protocol; and no server can pass on a status that is none."""
BODILESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))


class Answer:
    """An answer whose head has come. Its connection goes back to the pool at the body's end, or is closed."""

    __slots__ = ("_connection", "content", "headers", "raw_headers", "status")

    def __init__(self, connection: Connection, message: RawResponseMessage, content: StreamReader) -> None:
        self.status: int = message.code
        self.headers: CIMultiDictProxy[str] = message.headers
        self.raw_headers = message.raw_headers
        self.content = content
        self._connection = connection
        content.on_eof(self._end)

    def _end(self) -> None:
        transport = self._connection.transport
        if transport is None or transport.get_write_buffer_size():
            self._connection.close()  # answered before the request was sent whole
        else:
            self._connection.release()

    def close(self) -> None:
        """Close the connection at once, unless it went back to the pool."""
        self._connection.close()


class Connections:
    """One pool for all engines. `session` shares it, for a request whose answer is wanted whole."""

    def __init__(self, connect_seconds: float) -> None:
        self._timeouts = functools.lru_cache(64)(_connecting)
        self._connector = aiohttp.TCPConnector(
            limit=MAX_CONNECTIONS,
            keepalive_timeout=KEEPALIVE_SECONDS,
            socket_factory=judging_sockets(may_serve),
        )
        self.session = aiohttp.ClientSession(
            connector=self._connector,
            timeout=_connecting(connect_seconds),
            headers=UNCOMPRESSED,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        self._origin = functools.lru_cache(MAX_ORIGINS)(self._new_origin)

    def _new_origin(self, origin: URL) -> aiohttp.ClientRequest:
        """What aiohttp's connector wants to know of a request: where it goes. One serves all that go there."""
        return aiohttp.ClientRequest("GET", origin, loop=asyncio.get_running_loop())

    async def send(
        self,
        method: str,
        url: URL,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | None,
        connect_seconds: float | None,
    ) -> Answer:
        """Send a request and wait for the head of its answer; interim answers (1xx) are skipped.

        Raises what aiohttp raises: ClientError, TimeoutError, HttpProcessingError.
        """
        connection = await self._connected(url.origin(), self._timeouts(connect_seconds))
        answer = None
        try:
            protocol, transport = connection.protocol, connection.transport
            if protocol is None or transport is None:
                raise aiohttp.ServerDisconnectedError
            protocol.set_response_params(skip_payload=method == "HEAD", read_until_eof=True, auto_decompress=False)
            transport.write(_request(method, url, headers, body))
            while True:
                message, content = await protocol.read()
                if message.code == SWITCHING or message.code > LAST_STATUS:
                    raise HttpProcessingError(code=message.code, message="This is no answer.")
                if message.code >= 200:
                    answer = Answer(connection, message, content)
                    return answer
        finally:
            if answer is None:
                connection.close()

    async def _connected(self, origin: URL, timeout: aiohttp.ClientTimeout) -> Connection:
        """A connection on which nothing was said since its last answer: what an engine says beyond an answer's stated
        length would else be read as the answer to the next request, another caller's."""
        while True:
            connection = await self._connector.connect(self._origin(origin), [], timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()

    async def close(self) -> None:
        await self.session.close()


def _connecting(seconds: float | None) -> aiohttp.ClientTimeout:
    """A limit for connecting alone."""
    return aiohttp.ClientTimeout(total=None, sock_connect=seconds)


def _request(method: str, url: URL, headers: Iterable[tuple[bytes, bytes]], body: bytes | None) -> bytes:
    """The request's bytes. The headers are taken as they are: a parser has passed them."""
    lines = [f"{method} {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n".encode()]
    for name, value in headers:
        lines += name, b": ", value, b"\r\n"
    if body is not None or method not in BODILESS:
        lines.append(b"content-length: %d\r\n" % len(body or b""))
    lines += b"\r\n", body or b""
    return b"".join(lines)
