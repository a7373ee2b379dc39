"""A recording upstream: it keeps the exact bytes it was sent and answers with exactly the bytes it is told."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from yarl import URL

from tests.fakes.wait import soon

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Received:
    """One request as it came: the request line, the headers in order with lower-case names, the body."""

    line: bytes
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        return next((v for k, v in self.headers if k == name), None)


class Exchange:
    """The upstream's end of one exchange, for a script to play on."""

    def __init__(self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = received
        self._reader = reader
        self._writer = writer

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def peer_left(self) -> None:
        """Returns when the other side closes its connection, however it does."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65536):
                pass

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Close without a word (RST), as a killed engine on another host does."""
        self._writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


def saying(*parts: bytes) -> Script:
    """Answer with these bytes, each in a write of its own, and keep the connection."""

    async def script(exchange: Exchange) -> None:
        for part in parts:
            await exchange.write(part)

    return script


def then(end: str, *parts: bytes) -> Script:
    """Say `parts`, then "close", "reset", or "hang" until the relay hangs up."""

    async def script(exchange: Exchange) -> None:
        for part in parts:
            await exchange.write(part)
        if end == "hang":
            await exchange.peer_left()
        else:
            exchange.reset() if end == "reset" else exchange.close()

    return script


class Upstream:
    """A server on loopback that plays `script` for every request and keeps them all in `received`."""

    def __init__(self) -> None:
        self.script: Script = saying(b"HTTP/1.1 204 No Content\r\n\r\n")
        self.received: list[Received] = []
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> URL:
        return URL(f"http://127.0.0.1:{self.port}")

    @property
    def last(self) -> Received:
        return self.received[-1]

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while (request := await _read(reader)) is not None:
                self.received.append(request)
                await self.script(Exchange(request, reader, writer))
                if writer.is_closing():
                    break
        except ConnectionError:
            pass  # the relay hung up: what many tests are about
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head[:-4].split(b"\r\n")
    headers = [(k.lower(), v.strip()) for k, _, v in (text.partition(b":") for text in lines)]
    length = int(dict(headers).get(b"content-length", b"0"))
    return Received(line, headers, await reader.readexactly(length))


@asynccontextmanager
async def recording_upstream() -> AsyncIterator[Upstream]:
    """An upstream for as long as the block runs; whoever still talks to it then is cut off."""
    upstream = Upstream()
    talks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(upstream.talk(reader, writer))
        talks.add(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 20)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in talks:
            task.cancel()
        failures = await soon(asyncio.gather(*talks, return_exceptions=True))
        for failure in failures:
            if isinstance(failure, Exception):
                raise failure
