"""The proxy that one would write first: FastAPI and httpx, as their documentation shows them, and nothing else on.

`python -m bench.relay.obvious PORT UPSTREAM_URL`
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask

DROPPED = {"host", "content-length", "transfer-encoding", "connection"}


def create_app(upstream: str) -> FastAPI:
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
    uvicorn.run(create_app(sys.argv[2]), port=int(sys.argv[1]))
