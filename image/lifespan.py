"""From the process's start to its end: load the models, keep the registration alive, watch the device, stop."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from pydantic import AnyHttpUrl

from core.registration import Registrar, registrar_of
from core.watchers import Watchers
from core.wire.workers import Announcement, ServedModel
from image import model_loading
from image.malloc_trim import keep_giving_back
from image.worker import Worker

log = logging.getLogger(__name__)

DEVICE_TURNS = "turns at the device"
_LOOKS = 4  # at the device, in the time after which it is taken for hung


def lifespan(
    worker: Worker, watchers: Watchers, on_load_failure: Callable[[], object], on_started: Callable[[Worker], object]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        registrar = _registrar(worker)
        if registrar:
            worker.listeners.append(registrar.changed)
        async with watchers:
            if worker.lease:
                watchers.start(DEVICE_TURNS, worker.lease.run())
            watchers.start("start", _start(worker, on_load_failure), may_end=True)
            watchers.start("device", _watch(worker))
            for model, engine in worker.engines.items():
                watchers.start(f"engine of {model}", engine.until_lost())
            count = lambda: sum(engine.submitted for engine in worker.engines.values())  # noqa: E731 - asked again and again
            watchers.start("freed memory", keep_giving_back(count))
            if registrar:
                watchers.start("registration", registrar.run())
            on_started(worker)
            yield
            # The farewell too: no new request is routed here while the last ones end. Until they have, the device is
            # ours.
            watchers.cancel(*(name for name in watchers.tasks if name != DEVICE_TURNS))
            for engine in worker.engines.values():
                await engine.stop()
            await worker.sources.close()

    return live


async def _start(worker: Worker, on_failure: Callable[[], object]) -> None:
    try:
        if worker.lease:
            await model_loading.first_turn(worker.lease)
        else:
            await model_loading.load(worker.engines.values())
    except Exception as exc:  # whatever a checkpoint may raise: it is logged and the process told
        log.critical("the image model could not be loaded: %s", exc, exc_info=True)
        on_failure()
        return
    worker.on_change()


async def _watch(worker: Worker) -> None:
    """Notice a device that hangs, and one that answers again."""
    hung = False
    while True:
        await asyncio.sleep(worker.settings.image_hang_seconds / _LOOKS)
        if any(engine.died for engine in worker.engines.values()):
            raise RuntimeError("an engine's thread has ended")
        looks = [engine.watch() for engine in worker.engines.values()]  # at every one
        now = any(looks)
        if now != hung:
            hung = now
            worker.on_change()


def _registrar(worker: Worker) -> Registrar | None:
    settings, id = worker.settings, f"image-{uuid.uuid4().hex[:12]}"

    def announce() -> Announcement:
        return Announcement(
            id=id,
            kind="image",
            url=AnyHttpUrl(settings.reached_at()),
            models=tuple(
                ServedModel(id=model, abilities=("images", "image_edits") if engine.edits else ("images",))
                for model, engine in worker.engines.items()
            ),
            roles=settings.image_roles,
            capacity=settings.image_queue_max,
            queue_depth=worker.depth,
            ready=worker.ready,
            draining=worker.draining,
        )

    return registrar_of(settings, announce)
