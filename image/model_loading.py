"""The models on the device and off it: all at the start, and by turns where other workers use the device too."""

import asyncio
import gc
import logging
from collections.abc import Iterable

from core.device.lease import DeviceLease, line_of, terms_of
from core.errors import Overloaded, SoundstageError, Unavailable
from image.async_engine import AsyncEngine
from image.settings import ImageSettings

log = logging.getLogger(__name__)


async def load(engines: Iterable[AsyncEngine]) -> None:
    """One model after the other: each sees what memory the ones before it left. Raises what loading raises."""
    for engine in engines:
        await engine.start()
    gc.collect()
    gc.freeze()  # a model's objects are no garbage: left out of count, collections of the rest are frequent and cheap


async def let_go(engines: Iterable[AsyncEngine]) -> None:
    """Their memory is free when this returns. What still runs fails."""
    for engine in engines:
        await engine.rest()
    gc.unfreeze()
    await asyncio.to_thread(_release)


def lease_of(settings: ImageSettings, engines: Iterable[AsyncEngine]) -> DeviceLease | None:
    """None where the device is this worker's own. Raises SettingsError."""
    line = line_of(settings, "image")
    if line is None:
        return None

    async def take() -> None:
        try:
            await load(engines)
        except SoundstageError:
            raise
        except Exception as exc:  # whatever a checkpoint may raise
            log.exception("the models could not be loaded")
            raise Unavailable("The image model could not be loaded.", code="model_failed", retry_after=60) from exc

    return DeviceLease(line, terms_of(settings, settings.image_queue_max), take, lambda: let_go(engines))


async def first_turn(lease: DeviceLease) -> None:
    """Load the models once, whoever has the device until then. Raises Unavailable where that fails."""
    while True:
        try:
            async with lease.use():
                return
        except (Overloaded, Unavailable) as exc:
            if exc.code != "device_busy":
                raise


def _release() -> None:
    from image.pipelines import memory

    memory.release_everything()
