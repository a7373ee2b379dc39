"""A fake image worker that draws several pictures and shows previews, each when the one before was seen."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tests.fakes.image_worker import ImageWorker

PREVIEW = base64.b64encode(b"\x89PNG\r\n\x1a\n a preview").decode()
SEED = 11


def picture(at: int) -> str:
    return base64.b64encode(b"\x89PNG\r\n\x1a\n picture %d" % at).decode()


class DrawingWorker(ImageWorker):
    """`seen` is set by who saw the previews: the pictures come after that."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = asyncio.Event()

    async def _draw(self, sent: dict[str, Any], request: Request) -> Response:
        answer = await super()._draw(sent, request)
        if answer.status_code != 200:
            return answer
        images = range(int(sent.get("n", 1)))
        if sent.get("stream"):
            return StreamingResponse(self._told(images, int(sent["partial_images"])), media_type="text/event-stream")
        data = [{"b64_json": picture(at), "seed": SEED + at} for at in images]
        return JSONResponse({"created": 1, "data": data, "steps": 4})

    async def _told(self, images: range, previews: int) -> AsyncIterator[bytes]:
        for index in range(previews):
            for at in images:
                told = {"b64_json": PREVIEW, "partial_image_index": index, "image_index": at}
                yield _event("image_generation.partial_image", told)
        await self.seen.wait()
        for at in reversed(images):
            told = {"b64_json": picture(at), "image_index": at, "seed": SEED + at, "steps": 4}
            yield _event("image_generation.completed", told)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()
