"""From the process's start to its end: load the model, keep the registration alive, stop the engine."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from pydantic import AnyHttpUrl

from core.registration import Registrar
from core.wire.workers import Announcement, ServedModel
from image.async_engine import AsyncEngine
from image.worker import Worker

log = logging.getLogger(__name__)


def lifespan(
    worker: Worker, on_load_failure: Callable[[], object]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        registrar = _registrar(worker)
        async with asyncio.TaskGroup() as tasks:
            starting = tasks.create_task(_start(worker.engine, registrar, on_load_failure))
            beating = tasks.create_task(registrar.run()) if registrar else None
            yield
            if beating:  # first: no new request is routed here while the last ones end
                beating.cancel()
            starting.cancel()
            await worker.engine.stop()

    return live


async def _start(engine: AsyncEngine, registrar: Registrar | None, on_failure: Callable[[], object]) -> None:
    try:
        await engine.start()
    except Exception as exc:  # whatever a checkpoint may raise: it is logged and the process told
        log.critical("the image model could not be loaded: %s", exc, exc_info=True)
        on_failure()
        return
    if registrar:
        registrar.changed()


def _registrar(worker: Worker) -> Registrar | None:
    settings = worker.settings
    if not settings.orchestrator_url:
        return None
    key = settings.wan_worker_api_key.get_secret_value() if settings.wan_worker_api_key else ""
    id = f"image-{uuid.uuid4().hex[:12]}"

    def announce() -> Announcement:
        return Announcement(
            id=id,
            kind="image",
            url=AnyHttpUrl(settings.reached_at()),
            models=(ServedModel(id=settings.model_id, abilities=("images",), max_model_len=None),),
            roles=settings.image_roles,
            capacity=settings.image_queue_max,
            ready=worker.engine.ready,
        )

    return Registrar(settings.orchestrator_url, key, announce)
