"""Workers of a static list: nobody registers them, so they are asked whether they live and what they serve."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError

from core.relay import Relay
from core.wire.workers import Ability, Announcement, Kind, ServedModel
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers import WorkerPool

log = logging.getLogger(__name__)

PROBE_SECONDS = 2.0
TIMEOUT = aiohttp.ClientTimeout(total=5)
CHAT_ABILITIES: tuple[Ability, ...] = ("chat", "completions", "responses", "embeddings", "tokenize")
IMAGE_ABILITIES: tuple[Ability, ...] = ("images", "image_edits")
STATIC_CAPACITY = 256
ALIASES = ("qwen_instruct", "qwen_base")


@dataclass(frozen=True)
class StaticWorker:
    """An address from the settings. `model` names what the catalogue's aliases mean there; None: its first."""

    url: str
    kind: Kind
    key: str | None
    roles: tuple[str, ...] = ()
    model: str | None = None

    @property
    def root(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")


def listed(settings: OrchestratorSettings) -> list[StaticWorker]:
    """The workers that the settings name."""
    key = settings.wan_worker_api_key.get_secret_value() if settings.wan_worker_api_key else None
    pools = {
        "profile": settings.interface_profile_worker_urls,
        "chat1to1": settings.interface_chat1to1_worker_urls,
        "shorts": settings.interface_shorts_worker_urls,
        "scenes": settings.interface_scenes_worker_urls,
    }
    found = [StaticWorker(url, "image", key) for url in settings.image_worker_urls]
    found += [StaticWorker(url, "image", key, roles=(role,)) for role, urls in pools.items() for url in urls]
    found += [StaticWorker(url, "selfie", key) for url in settings.interface_selfie_feature_worker_urls]
    if settings.llm_url:
        own = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
        found.append(StaticWorker(settings.llm_url, "chat", own, model=settings.llm_model))
    return found


async def probe(static: Sequence[StaticWorker], pool: WorkerPool, relay: Relay) -> None:
    """Ask each every few seconds; one that answers is kept alive in the pool. Until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        for worker in static:
            tasks.create_task(_keep_asking(worker, pool, relay))


async def _keep_asking(worker: StaticWorker, pool: WorkerPool, relay: Relay) -> None:
    while True:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValidationError, KeyError, TypeError, ValueError):
            announcement, rewrites = await _ask(worker, relay)
            pool.add_static(announcement, worker.key, rewrites, 3 * PROBE_SECONDS)
        await asyncio.sleep(PROBE_SECONDS)


async def _ask(worker: StaticWorker, relay: Relay) -> tuple[Announcement, dict[str, str]]:
    """What it serves, by GET /v1/models (a selfie worker: by /healthz). Raises where it does not answer so."""
    headers = {"authorization": f"Bearer {worker.key}"} if worker.key else {}
    path = "/healthz" if worker.kind == "selfie" else "/v1/models"
    async with relay.session.get(worker.root + path, headers=headers, timeout=TIMEOUT) as response:
        response.raise_for_status()
        answer = await response.json(content_type=None)
    names = [] if worker.kind == "selfie" else [str(entry["id"]) for entry in answer["data"]]
    abilities = CHAT_ABILITIES if worker.kind == "chat" else IMAGE_ABILITIES
    aliased = worker.model or (names[0] if names else None)
    rewrites = {alias: aliased for alias in ALIASES if aliased and alias not in names} if worker.kind == "chat" else {}
    models = tuple(
        ServedModel(id=name, aliases=tuple(rewrites) if name == aliased else (), abilities=abilities) for name in names
    )
    if worker.kind == "selfie":
        models = (ServedModel(id="faces", abilities=("faces",)),)
    announcement = Announcement(
        id=f"static:{worker.root}",
        kind=worker.kind,
        url=worker.root,  # type: ignore[arg-type]  # pydantic parses it
        models=models,
        roles=worker.roles,
        capacity=STATIC_CAPACITY,
    )
    return announcement, rewrites
