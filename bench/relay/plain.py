"""Two simple proxies: `python -m bench.relay.plain least|obvious PORT UPSTREAM_URL`.

`least` is raw ASGI and aiohttp without keys, limits, timeouts, retries, logs or metrics: the floor of this machine's
Python. `obvious` is FastAPI and httpx as their documentation shows them: what one would write first.
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask

DROPPED = {"host", "content-length", "transfer-encoding", "connection"}
Message = MutableMapping[str, Any]
_session: list[aiohttp.ClientSession] = []


async def least(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if not _session:
        _session.append(aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)))
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    kept = {k.decode(): v.decode() for k, v in scope["headers"] if k not in (b"host", b"content-length")}
    async with _session[0].post(sys.argv[3] + scope["path"], headers=kept, data=body) as answer:
        headers = [pair for pair in answer.raw_headers if pair[0].lower() != b"transfer-encoding"]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for chunk in answer.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def obvious(upstream: str) -> FastAPI:
    client = httpx.AsyncClient(base_url=upstream, timeout=600, limits=httpx.Limits(max_connections=None))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        headers = {k: v for k, v in request.headers.items() if k not in DROPPED}
        sent = client.build_request("POST", request.url.path, headers=headers, content=await request.body())
        answer = await client.send(sent, stream=True)
        kept = {k: v for k, v in answer.headers.items() if k not in DROPPED}
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            closing = BackgroundTask(answer.aclose)
            return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=closing)
        body = await answer.aread()
        await answer.aclose()
        return Response(body, answer.status_code, kept)

    return app


if __name__ == "__main__":
    if sys.argv[1] == "least":
        uvicorn.run(least, port=int(sys.argv[2]), access_log=False, log_level="warning", lifespan="off")
    else:
        uvicorn.run(obvious(sys.argv[3]), port=int(sys.argv[2]))
