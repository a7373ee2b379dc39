"""A stand-in for the orchestrator's side of registration: keeps what it hears, answers as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web

from core.http.serving import bind


class Heard(NamedTuple):
    """One request: "POST" with the announcement's JSON, or "DELETE" with the worker's id."""

    method: str
    said: str
    authorization: str | None


class Orchestrator:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[Heard] = asyncio.Queue()
        self.status = 200
        self.answer = '{"id":"w","lease_seconds":60,"heartbeat_seconds":30}'
        self.url = ""

    async def register(self, request: web.Request) -> web.Response:
        self.heard.put_nowait(Heard("POST", await request.text(), request.headers.get("authorization")))
        return web.Response(status=self.status, text=self.answer, content_type="application/json")

    async def leave(self, request: web.Request) -> web.Response:
        self.heard.put_nowait(Heard("DELETE", request.match_info["id"], request.headers.get("authorization")))
        return web.Response(status=204)


@asynccontextmanager
async def listening(orchestrator: Orchestrator, port: int = 0) -> AsyncIterator[int]:
    """Its port, for as long as the block runs."""
    app = web.Application()
    app.add_routes([web.post("/v1/workers", orchestrator.register), web.delete("/v1/workers/{id}", orchestrator.leave)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    sock = bind("127.0.0.1", port)
    await web.SockSite(runner, sock).start()
    port = sock.getsockname()[1]
    orchestrator.url = f"http://127.0.0.1:{port}"
    try:
        yield port
    finally:
        await runner.cleanup()
