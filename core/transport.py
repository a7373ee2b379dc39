"""httpx2's requests over the relay's connections: a client library in front, the gateway's own pool behind it.

httpx2's transport parses in Python, which costs a pipeline more than all its work for the same requests.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from functools import lru_cache

import aiohttp
import httpx2
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from core.connections import Answer, Connections
from core.relay import HOP_BY_HOP

WRITTEN = HOP_BY_HOP | {b"host", b"content-length"}  # by the connections themselves
_BREAKS = re.compile(rb"[\r\n\0]").search  # the connections write headers as they are
FAILURES = (aiohttp.ClientError, HttpProcessingError, OSError, TimeoutError)


class Transport(httpx2.AsyncBaseTransport):
    """It raises what httpx2's own raises, of the same causes. Bodies are sent whole. The connections are left open."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Of the request's `timeout`, `connect` and `read` count: for connecting, and for each wait for bytes."""
        limits = request.extensions.get("timeout") or {}
        headers = [pair for pair in request.headers.raw if pair[0].lower() not in WRITTEN]
        if _BREAKS(b"".join(part for pair in headers for part in pair)):
            raise httpx2.LocalProtocolError("A header holds the end of a line.")
        body = await request.aread()
        connect, read = limits.get("connect"), limits.get("read")
        late = asyncio.timeout(None if read is None else read + (connect or 0.0))
        try:
            async with late:
                answer = await self._connections.send(
                    request.method, _url(str(request.url)), headers, body or None, connect
                )
        except FAILURES as exc:
            if isinstance(exc, TimeoutError) and not late.expired():
                raise httpx2.ConnectTimeout("The connection was not made in time.") from exc
            raise _as_httpx(exc) from exc
        return httpx2.Response(answer.status, headers=answer.raw_headers, stream=_Body(answer, read))


class _Body(httpx2.AsyncByteStream):
    """An answer's pieces as they come."""

    def __init__(self, answer: Answer, seconds: float | None) -> None:
        self._answer = answer
        self._seconds = seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._answer.content
        while not content.at_eof():
            try:
                async with asyncio.timeout(self._seconds):
                    piece = await content.readany()
            except FAILURES as exc:
                raise _as_httpx(exc) from exc
            if piece:
                yield piece

    async def aclose(self) -> None:
        self._answer.close()  # a no-op after a whole answer


@lru_cache(256)
def _url(text: str) -> URL:
    return URL(text, encoded=True)


def _as_httpx(exc: BaseException) -> httpx2.HTTPError:
    """aiohttp's exceptions as httpx2's."""
    text = str(exc) or type(exc).__name__
    if isinstance(exc, aiohttp.ClientConnectorError):
        return httpx2.ConnectError(text)
    if isinstance(exc, TimeoutError):
        return httpx2.ReadTimeout(text)
    if isinstance(exc, HttpProcessingError | aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return httpx2.RemoteProtocolError(text)
    return httpx2.ReadError(text)
