"""The selfie worker's HTTP face: POST /v1/profile/analyze, POST /v1/faces, GET /health."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from threading import Event
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from pydantic import AnyHttpUrl

from core.disconnect import until_disconnect
from core.registration import Registrar
from core.service import ASGIApp, Readiness, create_service
from core.wire.workers import Announcement, ServedModel
from vision import metrics
from vision.analysis import Analyst
from vision.answer import Analysis, Faces
from vision.decode import Limits
from vision.faces.base import Detector
from vision.pool import WorkPool
from vision.settings import VisionSettings
from vision.upload import read_image

T = TypeVar("T")

IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP"}},
                }
            }
        },
    }
}


def create_app(settings: VisionSettings, detector: Detector) -> ASGIApp:
    """The worker as an ASGI application; it registers while its lifespan runs."""
    worker = _Worker(settings, detector)
    api = FastAPI(title="Soundstage selfie worker", lifespan=worker.lifespan)

    @api.post("/v1/profile/analyze", openapi_extra=IMAGE_BODY)
    async def analyze(request: Request) -> Analysis:
        """Find the subject's face and judge the photo. A picture without a face is answered too, with a warning."""
        analysis = await worker.answer(request, worker.analyst.analyze)
        metrics.PHOTOS.labels("found" if analysis.face.found else "none").inc()
        return analysis

    @api.post("/v1/faces", openapi_extra=IMAGE_BODY)
    async def faces(request: Request) -> Faces:
        """Where the faces are; no more."""
        return await worker.answer(request, worker.analyst.find)

    @api.get("/health")
    async def health() -> dict[str, Any]:
        return worker.health()

    return create_service("vision", api, settings, ready=worker.ready)


class _Worker:
    """What one process shares between requests."""

    def __init__(self, settings: VisionSettings, detector: Detector) -> None:
        self._settings = settings
        self._detector = detector
        self._id = f"selfie-{uuid.uuid4().hex[:12]}"
        self._pool = WorkPool(settings.vision_threads, settings.vision_queue_max)
        self.analyst = Analyst(detector, Limits(settings.max_image_bytes, settings.max_image_pixels))

    async def answer(self, request: Request, work: Callable[[bytes, Event], T]) -> T:
        """Take a place → read the upload → work in a thread, until the client leaves."""
        with self._pool.place():
            data = await read_image(request, self._settings.upload_seconds)
            with until_disconnect(request.receive):
                return await self._pool.run(lambda stop: work(data, stop))

    @contextlib.asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        registration = self._register()
        try:
            yield
        finally:
            if registration:
                registration.cancel()
                await asyncio.wait([registration])
            await self._pool.close()

    def _register(self) -> asyncio.Task[None] | None:
        url, key = self._settings.orchestrator_url, self._settings.wan_worker_api_key
        if not url:
            return None
        registrar = Registrar(url, key.get_secret_value() if key else "", self._announcement)
        return asyncio.create_task(registrar.run())

    def _announcement(self) -> Announcement:
        return Announcement(
            id=self._id,
            kind="selfie",
            url=AnyHttpUrl(self._settings.reached_at()),
            models=(ServedModel(id=self._detector.name, abilities=("faces",), max_model_len=None),),
            roles=(),
            capacity=self._pool.capacity,
        )

    async def ready(self) -> Readiness:
        return Readiness(True, {"detector": self._detector.name})

    def health(self) -> dict[str, Any]:
        return {
            "status": "ok",
            "worker_type": "selfie",
            "detector": self._detector.name,
            "vision_model": None,
            "places": {"taken": self._pool.taken, "capacity": self._pool.capacity},
        }
