"""The line to a database, which can be cut and mended: Postgres on one Unix socket, forwarded to another."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

SOCKET = ".s.PGSQL.5432"


class Cable:
    """`dsn` leads to the same database, for as long as the line is whole."""

    def __init__(self, dsn: str, folder: Path) -> None:
        there = parse_qs(urlsplit(dsn).query)["host"][0]
        self._far, self._near = Path(there, SOCKET), folder / SOCKET
        self.dsn = urlsplit(dsn)._replace(query=f"host={folder}").geturl()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def mend(self) -> None:
        self._server = await asyncio.start_unix_server(self._forward, self._near)

    def cut(self) -> None:
        """Nothing can connect any more, and whoever was connected is not."""
        assert self._server is not None
        self._server.close()
        self._near.unlink(missing_ok=True)
        for writer in self._open:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._far)
        self._open |= {writer, far_writer}
        await asyncio.wait(
            [asyncio.ensure_future(_copy(reader, far_writer)), asyncio.ensure_future(_copy(far_reader, writer))]
        )
        self._open -= {writer, far_writer}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def cable(dsn: str, folder: Path) -> AsyncIterator[Cable]:
    line = Cable(dsn, folder)
    await line.mend()
    try:
        yield line
    finally:
        line.cut()
