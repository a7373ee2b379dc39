"""What one process of the selfie worker shares between requests, and the way of one photo through it."""

import asyncio
import base64
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from fastapi import FastAPI, Request
from pydantic import AnyHttpUrl
from starlette.requests import ClientDisconnect

from core.http.disconnect import ClientDisconnected, until_disconnect
from core.http.form import Field, Form, read_form
from core.pictures.decode import Photo
from core.pictures.processes import Decoder
from core.registration import registrar_of
from core.service import Readiness
from core.trace_context import traceparent
from core.waiting import Places
from core.watchers import Watchers
from core.wire.workers import Announcement, ServedModel
from vision import analysis, metrics
from vision.analysis import MESSAGES, Detection, DetectionJob, FaceModels
from vision.answer import Analysis, Faces, WarningOut
from vision.batching import MicroBatcher
from vision.describe import VisionAnswer, VisionModel
from vision.questions import Question, read_question
from vision.settings import VisionSettings

P = ParamSpec("P")
T = TypeVar("T")

QUESTION_BYTES = {"messages": 256 << 10, "schema": 16 << 10, "sampling": 2 << 10, "repair": 8 << 10, "portrait": 8}


class Worker:
    """Everything is given to it; its lifespan opens and closes it."""

    def __init__(
        self, settings: VisionSettings, models: FaceModels, decoder: Decoder, model: VisionModel | None
    ) -> None:
        self._settings = settings
        self._models = models
        self._decoder = decoder
        self._model = model
        self._id = f"selfie-{uuid.uuid4().hex[:12]}"
        self._places = Places(
            settings.vision_threads + settings.vision_queue_max, waiting=0, seconds=0, code="queue_full"
        )
        metrics.PLACES.set_function(lambda: self._places.taken)
        self._threads = ThreadPoolExecutor(settings.vision_threads, thread_name_prefix="vision")
        self._device = MicroBatcher(models.look, settings.vision_batch)
        self._registrar = registrar_of(settings, self._announcement)
        self.watchers = Watchers()
        self._leaving = False

    async def analyze(self, request: Request) -> tuple[Analysis, Question | None]:
        """place → read the upload → decode → look → judge → ask the vision model, until the client leaves."""
        async with self._places.hold():
            form = await self._read(request, QUESTION_BYTES)
            question, wants_portrait = read_question(form), bytes(form.get("portrait", b"")) == b"true"
            with until_disconnect(request.receive):
                photo, seen = await self._detect(form, read=True)
                quality = await self._in_thread(analysis.judge, photo, seen)
                answer = await self._ask(question, photo, seen, request)
                found = analysis.analysis(photo, seen, quality, answer, self._model.name if self._model else None)
                if question is not None and self._model is None:
                    found.warnings.append(WarningOut(code="no_vision_model", message=MESSAGES["no_vision_model"]))
                if wants_portrait:
                    jpeg = await self._in_thread(analysis.portrait, photo, seen.subject)
                    found.portrait = base64.b64encode(jpeg).decode()
        metrics.PHOTOS.labels("found" if seen.faces else "none").inc()
        return found, question

    async def faces(self, request: Request) -> Faces:
        async with self._places.hold():
            form = await self._read(request, {})
            with until_disconnect(request.receive):
                photo, seen = await self._detect(form, read=False)
        return analysis.found_faces(photo, seen)

    async def _read(self, request: Request, texts: dict[str, int]) -> Form:
        fields = {"image": Field(self._settings.max_image_bytes, file=True, required=True)}
        fields |= {name: Field(most) for name, most in texts.items()}
        try:
            kind = request.headers.get("content-type")
            return await read_form(kind, request.stream(), fields, self._settings.upload_seconds)
        except ClientDisconnect as exc:
            raise ClientDisconnected from exc

    async def _detect(self, form: Form, *, read: bool) -> tuple[Photo, Detection]:
        data = form.pop("image")
        photo = await self._in_thread(self._decoder.decode, data)
        return photo, await self._device.run(DetectionJob(photo.pixels, read))

    async def _ask(
        self, question: Question | None, photo: Photo, seen: Detection, request: Request
    ) -> VisionAnswer | None:
        if question is None or self._model is None:
            return None
        jpeg = await self._in_thread(analysis.portrait, photo, seen.subject)
        trace = traceparent(request.headers.get("traceparent"))
        return await self._model.ask(question, jpeg, request.scope["request_id"], trace)

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """On one of the threads; work that waits never starts when its caller has left."""

        def timed() -> T:
            with metrics.WORK_SECONDS.time():
                return work(*args, **kwargs)

        return await asyncio.wrap_future(self._threads.submit(timed))

    @contextlib.asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if self._model:
                await stack.enter_async_context(self._model)
            self._watch()
            try:
                yield
            finally:
                await self.watchers.stop()
                await asyncio.to_thread(self._threads.shutdown)
                await self._device.close()
                self._decoder.close()

    def _watch(self) -> None:
        self.watchers.start("device", self._device.watch())
        if self._registrar:
            self.watchers.start("registration", self._registrar.run())

    def leave(self) -> None:
        """It will stop: what runs goes on, nothing new shall be sent here."""
        self._leaving = True
        if self._registrar:
            self._registrar.changed()

    def _announcement(self) -> Announcement:
        return Announcement(
            id=self._id,
            kind="selfie",
            url=AnyHttpUrl(self._settings.reached_at()),
            models=(ServedModel(id=self._models.detector.name, abilities=("faces",), max_model_len=None),),
            roles=(),
            capacity=self._places.most,
            queue_depth=self._places.taken,
            draining=self._leaving,
        )

    async def ready(self) -> Readiness:
        return Readiness(True, {"detector": self._models.detector.name})

    def health(self) -> dict[str, Any]:
        return {
            "status": "ok",
            "worker_type": "selfie",
            "detector": self._models.detector.name,
            "vision_model": self._model.name if self._model else None,
            "places": {"taken": self._places.taken, "capacity": self._places.most},
        }
