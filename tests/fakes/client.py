"""A client on a bare socket: it says exactly these bytes and sees exactly the bytes that come back."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.fakes.wait import soon

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Answer:
    """Status, headers in order with lower-case names, body without its framing; `whole` if its framing ended."""

    status: int
    headers: Headers
    body: bytes = b""
    whole: bool = True

    def header(self, name: bytes) -> bytes | None:
        return next((v for k, v in self.headers if k == name), None)

    def all(self, name: bytes) -> list[bytes]:
        return [v for k, v in self.headers if k == name]

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The one error of OpenAI's envelope, which holds these four fields and nothing else."""
        body = self.json()
        assert list(body) == ["error"]
        error: dict[str, Any] = body["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


def request(
    method: bytes = b"GET",
    target: bytes = b"/",
    headers: Iterable[tuple[bytes, bytes]] = (),
    body: bytes | None = None,
) -> bytes:
    """A request's bytes; a body gets a Content-Length."""
    lines = [b"%s %s HTTP/1.1" % (method, target), b"Host: soundstage.test"]
    lines += [b"%s: %s" % pair for pair in headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


class RawClient:
    """One connection. Every read is bounded in time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.port: int = writer.get_extra_info("sockname")[1]
        """Its own, by which the other side knows it."""

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await soon(self._writer.drain())

    async def head(self) -> Answer:
        """The status line and headers."""
        text = await soon(self._reader.readuntil(b"\r\n\r\n"))
        line, *lines = text[:-4].split(b"\r\n")
        pairs = (line.partition(b":") for line in lines)
        return Answer(int(line.split()[1]), [(k.lower(), v.strip()) for k, _, v in pairs])

    async def chunk(self) -> bytes:
        """One chunk of a chunked body; empty at its end. Raises IncompleteReadError when it is cut off."""
        size = int(await soon(self._reader.readuntil(b"\r\n")), 16)
        return (await soon(self._reader.readexactly(size + 2)))[:-2]

    async def exactly(self, size: int) -> bytes:
        """So many bytes of a body. Raises IncompleteReadError when it is cut off."""
        return await soon(self._reader.readexactly(size))

    async def answer(self, to: bytes = b"GET") -> Answer:
        """A whole answer, or as much of one as came before the connection closed."""
        head = await self.head()
        if to == b"HEAD" or head.status in (204, 304):
            return head
        body, whole = bytearray(), True
        try:
            length = head.header(b"content-length")
            if length is not None:
                body += await self.exactly(int(length))
            else:
                while piece := await self.chunk():
                    body += piece
        except asyncio.IncompleteReadError as exc:
            body += exc.partial
            whole = False
        except ConnectionError:
            whole = False
        return Answer(head.status, head.headers, bytes(body), whole)

    async def closed(self) -> bytes:
        """What still comes until the other side closes."""
        return await soon(self._reader.read())

    def leave(self) -> None:
        """Hang up, as a browser tab that is closed."""
        self._writer.close()


@asynccontextmanager
async def connected(port: int, *, receive_buffer: int | None = None) -> AsyncIterator[RawClient]:
    """A connection to a port on loopback. `receive_buffer` (bytes) makes a client that takes little at a time."""
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 1 << 20)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await soon(writer.wait_closed())


async def ask(port: int, data: bytes) -> Answer:
    """One request on a connection of its own."""
    async with connected(port) as client:
        await client.send(data)
        return await client.answer(to=data.split(b" ", 1)[0])
