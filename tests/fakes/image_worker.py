"""A fake image worker on the OpenAI images path: it keeps what it was sent and answers with a set picture."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from core.http.disconnect import ClientDisconnected, until_disconnect

PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n a picture").decode()


class ImageWorker:
    """`held` keeps its answers back while it is cleared, `partial_seen` the end of a stream until it is set; `status`
    other than 200 is a refusal, `code` its code. What it `has` of earlier requests it says when it is asked, by key."""

    def __init__(self, model: str = "tiny-image") -> None:
        self.model = model
        self.status = 200
        self.code: str | None = None
        self.has: set[str] = set()
        self.called_off: list[str] = []
        self.held = asyncio.Event()
        self.held.set()
        self.partial_seen = asyncio.Event()
        self.pictures: list[dict[str, Any]] = [{"b64_json": PICTURE}]
        self.received: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.running = 0
        self.left = 0

    def app(self) -> FastAPI:
        api = FastAPI()
        api.post("/v1/images/generations")(self._generate)
        api.post("/v1/images/edits")(self._edit)
        api.post("/v1/images/find")(self._find)
        api.post("/v1/images/cancel")(self._cancel)
        api.get("/v1/models")(self._models)
        return api

    async def _models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": self.model, "object": "model"}]}

    async def _find(self, request: Request) -> dict[str, str | None]:
        return {"found": "running" if request.headers["idempotency-key"] in self.has else None}

    async def _cancel(self, request: Request) -> dict[str, bool]:
        self.called_off.append(request.headers["idempotency-key"])
        return {"cancelled": True}

    async def _edit(self, request: Request) -> Response:
        """The form's texts as they are, and its picture's bytes."""
        async with request.form() as form:
            sent = {name: value if isinstance(value, str) else await value.read() for name, value in form.items()}
        return await self._draw(sent, request)

    async def _generate(self, request: Request) -> Response:
        return await self._draw(await request.json(), request)

    async def _draw(self, sent: dict[str, Any], request: Request) -> Response:
        self.received.append(sent)
        self.headers.append(dict(request.headers))
        self.running += 1
        try:
            with until_disconnect(request.receive):
                await self.held.wait()
        except ClientDisconnected:
            self.left += 1
            return Response(status_code=499)
        finally:
            self.running -= 1
        if self.status != 200:
            error = {"message": "set to fail", "type": "server_error", "param": None, "code": self.code}
            return JSONResponse({"error": error}, self.status)
        if sent.get("stream") in (True, "true"):
            kind = "image_edit" if request.url.path.endswith("edits") else "image_generation"
            return StreamingResponse(self._streamed(kind), media_type="text/event-stream")
        return JSONResponse({"created": 1, "data": self.pictures})

    async def _streamed(self, kind: str) -> AsyncIterator[bytes]:
        """One partial image; the whole one when `partial_seen` is set."""
        partial = {"type": f"{kind}.partial_image", "partial_image_index": 0, **self.pictures[0]}
        yield b"event: " + partial["type"].encode() + b"\ndata: " + json.dumps(partial).encode() + b"\n\n"
        await self.partial_seen.wait()
        usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        whole = {"type": f"{kind}.completed", "usage": usage, **self.pictures[0]}
        yield b"event: " + whole["type"].encode() + b"\ndata: " + json.dumps(whole).encode() + b"\n\n"
