"""The image worker's HTTP surface, wired: its routes (image/routes) parse, submit and encode. What it is sent is what
it runs."""

import time
from collections.abc import Callable, Mapping

from fastapi import FastAPI
from starlette.types import Scope

from core.http.shell import Authorise, Shell
from core.keyed_calls import Bounds
from core.service import Readiness, create_service
from core.watchers import Watchers
from core.worker_key import worker_key_check
from image import blobs, model_loading, signing, sources
from image.async_engine import AsyncEngine
from image.building import Load, builder
from image.device import Device
from image.lifespan import lifespan
from image.metrics import Recorder
from image.repeats import Repeats
from image.routes import adapters, openai_images, operating, roles
from image.settings import ImageSettings
from image.worker import Worker


def create_app(
    settings: ImageSettings,
    loads: Mapping[str, Load],
    *,
    on_load_failure: Callable[[], object] = lambda: None,
    on_started: Callable[[Worker], object] = lambda worker: None,
) -> Shell:
    """The service over models that `loads` makes, each on its engine's thread, once serving begins. The app answers at
    once and is ready when the models are. `on_load_failure` is told if they cannot be; `on_started` is called on the
    running event loop."""
    engines = _engines(settings, loads)
    worker = Worker(
        settings,
        engines,
        blobs.Blobs.under(settings.data_dir, settings.image_link_seconds),
        _signer(settings),
        time.time(),
        Repeats(Bounds(settings.image_repeats_max, settings.image_repeats_mb << 20, settings.image_repeats_seconds)),
        sources.sources_of(settings),
        model_loading.lease_of(settings, engines.values()),
    )

    watchers = Watchers()

    async def ready() -> Readiness:
        return Readiness(worker.ready, {"model": settings.model_id, **worker.load()})

    api = FastAPI(title="Soundstage image worker", lifespan=lifespan(worker, watchers, on_load_failure, on_started))
    openai_images.add(api, worker)
    roles.add(api, worker)
    adapters.add(api, worker)
    operating.add(api, worker)
    return create_service(
        "image",
        api,
        settings,
        ready=ready,
        authorise=_door(settings),
        large=frozenset({openai_images.EDITS}),
        watchers=watchers,
    )


def _engines(settings: ImageSettings, loads: Mapping[str, Load]) -> dict[str, AsyncEngine]:
    """One each; they share the device by turns."""
    device, engines = Device(), {}
    for model, load in loads.items():
        recorder = Recorder(model)
        engines[model] = AsyncEngine(
            builder(settings, model, load, device),
            device,
            capacity=settings.image_queue_max,
            retry_after_cap=settings.interface_retry_after_cap_ms / 1000,
            hang_seconds=settings.image_hang_seconds,
            observer=recorder,
        )
        recorder.watch(engines[model])
    return engines


def _signer(settings: ImageSettings) -> signing.Signer | None:
    if not (settings.image_c2pa_certificate and settings.image_c2pa_key):
        return None
    return signing.Signer.load(
        settings.image_c2pa_certificate,
        settings.image_c2pa_key,
        settings.image_c2pa_algorithm,
        settings.image_c2pa_timestamp_url,
    )


def _door(settings: ImageSettings) -> Authorise:
    """The worker's key; a signed link is its own key."""
    check = worker_key_check(settings.worker_key)

    async def authorise(scope: Scope) -> None:
        if not (scope["method"] in ("GET", "HEAD") and scope["path"].startswith(blobs.PATH)):
            await check(scope)

    return authorise
