"""httpx2's requests over the relay's connections: a client library in front, the gateway's own pool behind it.

httpx2's transport parses in Python, which costs a pipeline more than all its work for the same requests.

Who answers may be broken or hostile. So an answer is asked for uncompressed, and is at most MOST_BYTES long once it is
unpacked. Its headers name no codec: the client library decodes by the charset that it is told, whatever that is.
"""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache

import aiohttp
import httpx2
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from core.http.connections import Answer, Connections
from core.http.end_to_end import HOP_BY_HOP
from core.untrusted import UNCOMPRESSED

MOST_BYTES = 128 << 20
"""Of one answer: several large pictures in base64, or a very long stream."""
PIECE = 64 << 10
DROPPED = frozenset((b"content-encoding", b"set-cookie"))
"""Of an answer's headers. A cookie that one worker sets would go to others, too."""
UNPACKED = frozenset(("identity", "gzip", "deflate"))
AUTO = zlib.MAX_WBITS | 32  # gzip's frame or zlib's

WRITTEN = HOP_BY_HOP | {b"host", b"content-length"}  # by the connections themselves
_BREAKS = re.compile(rb"[\r\n\0]").search  # the connections write headers as they are
_UNCOMPRESSED = [(name.encode(), value.encode()) for name, value in UNCOMPRESSED.items()]
FAILURES = (aiohttp.ClientError, HttpProcessingError, OSError, TimeoutError)


class Transport(httpx2.AsyncBaseTransport):
    """It raises what httpx2's own raises, of the same causes. Bodies are sent whole. The connections are left open."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Of the request's `timeout`, `connect` and `read` count: for connecting, and for each wait for bytes."""
        limits = request.extensions.get("timeout") or {}
        headers = [pair for pair in request.headers.raw if pair[0].lower() not in WRITTEN]
        headers = [pair for pair in headers if pair[0].lower() != b"accept-encoding"] + _UNCOMPRESSED
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
        packed = answer.headers.get("content-encoding", "identity").strip().lower()
        if packed not in UNPACKED:
            answer.close()
            raise httpx2.RemoteProtocolError("The answer is compressed in a way that is not read here.")
        headers = [_without_codec(*pair) for pair in answer.raw_headers if pair[0].lower() not in DROPPED]
        unzip = None if packed == "identity" else zlib.decompressobj(AUTO)
        return httpx2.Response(answer.status, headers=headers, stream=_Body(answer, read, unzip))


class _Body(httpx2.AsyncByteStream):
    """An answer's pieces as they come, unpacked where `unzip` is given."""

    def __init__(self, answer: Answer, seconds: float | None, unzip: "zlib._Decompress | None") -> None:
        self._answer = answer
        self._seconds = seconds
        self._unzip = unzip

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content, left = self._answer.content, MOST_BYTES
        while not content.at_eof():
            try:
                async with asyncio.timeout(self._seconds):
                    piece = await content.readany()
            except FAILURES as exc:
                raise _as_httpx(exc) from exc
            for plain in self._plain(piece):
                left -= len(plain)
                if left < 0:
                    self._answer.close()
                    raise httpx2.RemoteProtocolError(f"The answer is longer than {MOST_BYTES} bytes.")
                yield plain
        if self._unzip is not None and left < MOST_BYTES and not self._unzip.eof:
            raise httpx2.RemoteProtocolError("The compressed answer is not whole.")

    def _plain(self, piece: bytes) -> Iterator[bytes]:
        """At most PIECE bytes at once, however far they were packed."""
        if self._unzip is None:
            yield from (piece,) if piece else ()
            return
        try:
            while piece:
                if self._unzip.eof:
                    raise zlib.error("more follows its end")
                yield self._unzip.decompress(piece, PIECE)
                piece = self._unzip.unconsumed_tail or self._unzip.unused_data
        except zlib.error as exc:
            self._answer.close()
            raise httpx2.RemoteProtocolError("The answer is not compressed as it says.") from exc

    async def aclose(self) -> None:
        self._answer.close()  # a no-op after a whole answer


def _without_codec(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A header as it is, but a content type without its charset: an answer is UTF-8 or cannot be read."""
    if name.lower() == b"content-type" and b"charset" in value.lower():
        return name, value.partition(b";")[0]
    return name, value


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
