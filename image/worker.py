"""What the image worker's routes share: run requests in the engine, encode what comes out."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from core.disconnect import until_disconnect
from core.errors import InvalidRequest
from image import encode
from image.async_engine import AsyncEngine
from image.events import Finished
from image.request import ImageRequest
from image.settings import ImageSettings

RELEASE_HEADER, RUN_HEADER = "x-soundstage-release", "x-soundstage-run"
"""What the caller wants written into the picture's metadata."""


@dataclass(frozen=True)
class Worker:
    """What the routes share."""

    settings: ImageSettings
    engine: AsyncEngine
    started: float  # seconds since the epoch

    def load(self) -> dict[str, Any]:
        return {"running": self.engine.running, "waiting": self.engine.waiting, "capacity": self.engine.capacity}

    async def run(self, http: Request, requests: Sequence[ImageRequest]) -> list["Picture"]:
        """The images, encoded. A client that leaves takes its requests out of the engine."""
        origin = {"release": _label(http, RELEASE_HEADER), "run_id": _label(http, RUN_HEADER)}
        generations = self.engine.submit(requests)
        try:
            with until_disconnect(http.receive):
                finished = [await generation.result() for generation in generations]
        finally:
            for generation in generations:
                generation.cancel()
        return [await self._encode(*pair, origin) for pair in zip(requests, finished, strict=True)]

    async def _encode(self, request: ImageRequest, done: Finished, origin: dict[str, str | None]) -> "Picture":
        marks = encode.Origin(self.settings.model_id, request.seed, request.steps, **origin)
        file = await asyncio.to_thread(encode.png, done.pixels, marks)
        return Picture(request, done, base64.b64encode(file).decode())


@dataclass(frozen=True)
class Picture:
    request: ImageRequest
    done: Finished
    b64: str


def _label(http: Request, header: str) -> str | None:
    value = http.headers.get(header)
    if value is not None and (len(value) > 200 or not value.isprintable()):
        raise InvalidRequest(f"{header} must be printable and at most 200 characters.", param=header)
    return value
