"""An application behind a real uvicorn, as in production, on a port of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

import uvicorn
from starlette.types import ASGIApp

from core.http.protocol import HttpProtocol
from core.http.serving import bind, server_config
from tests.fakes.wait import eventually, soon


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.leaves = asyncio.Event()

    async def main_loop(self) -> None:
        await self.leaves.wait()  # uvicorn's own looks ten times a second whether it should

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()  # Ctrl-C is pytest's


@asynccontextmanager
async def serving(app: ASGIApp, http: type[HttpProtocol] = HttpProtocol) -> AsyncIterator[int]:
    """The port it answers on."""
    sock = bind("127.0.0.1", 0)
    server = _Server(server_config(app, http))
    running = asyncio.ensure_future(server.serve(sockets=[sock]))
    await eventually(lambda: server.started or running.done(), "the server's start")
    try:
        yield sock.getsockname()[1]
    finally:
        server.leaves.set()
        await soon(running)
