"""Workers of a static list: nobody registers them, so they are asked whether they live and what they serve."""

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from core.relay import Relay
from core.wire.workers import Ability, Announcement, Kind, ServedModel
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers import WorkerPool

log = logging.getLogger(__name__)

PROBE_SECONDS = 2.0
TIMEOUT = aiohttp.ClientTimeout(total=5)
CHAT_ABILITIES: tuple[Ability, ...] = ("chat", "completions", "responses", "embeddings", "tokenize")
GUARD_ABILITIES: tuple[Ability, ...] = ("moderations", "chat", "tokenize")
IMAGE_ABILITIES: tuple[Ability, ...] = ("images", "image_edits")
STATIC_CAPACITY = 256
ALIASES = ("qwen_instruct", "qwen_base")
MAX_MODELS = 64  # an announcement holds no more

_NAME = re.compile(r"[\w.:/@+-]{1,200}").fullmatch
_NOT_IN_NAMES = re.compile(r"[^\w.:/@+-]")


@dataclass(frozen=True)
class StaticWorker:
    """An address from the settings. `model` names what the catalogue's aliases mean there; None: its first.

    One with `abilities` of its own answers to no alias.
    """

    url: str
    kind: Kind
    key: str | None
    roles: tuple[str, ...] = ()
    abilities: tuple[Ability, ...] = ()
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
    roles: dict[str, tuple[str, ...]] = {url.rstrip("/"): () for url in settings.image_worker_urls}
    for role, urls in pools.items():
        for url in urls:
            roles[url.rstrip("/")] = (*roles.get(url.rstrip("/"), ()), role)
    found = [StaticWorker(url, "image", key, of) for url, of in roles.items()]
    found += [StaticWorker(url, "selfie", key) for url in settings.interface_selfie_feature_worker_urls]
    if settings.llm_url:
        own = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
        found.append(StaticWorker(settings.llm_url, "chat", own, model=settings.llm_model))
    if settings.guard_url:
        own = settings.guard_api_key.get_secret_value() if settings.guard_api_key else None
        found.append(StaticWorker(settings.guard_url, "chat", own, abilities=GUARD_ABILITIES))
    return found


async def probe(static: Sequence[StaticWorker], pool: WorkerPool, relay: Relay) -> None:
    """Ask each every few seconds; one that answers is kept alive in the pool. Until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        for worker in static:
            tasks.create_task(_keep_asking(worker, pool, relay))


async def _keep_asking(worker: StaticWorker, pool: WorkerPool, relay: Relay) -> None:
    answered = True
    while True:
        try:
            announcement, rewrites = await _ask(worker, relay)
            pool.add_static(announcement, worker.key, rewrites, 3 * PROBE_SECONDS)
            answered = True
        except (aiohttp.ClientError, TimeoutError, KeyError, TypeError, ValueError) as exc:
            if answered:
                log.warning("static worker does not answer", extra={"url": worker.root, "reason": repr(exc)[:300]})
            answered = False
        await asyncio.sleep(PROBE_SECONDS)


async def _ask(worker: StaticWorker, relay: Relay) -> tuple[Announcement, dict[str, str]]:
    """What it serves, by GET /v1/models (a selfie worker: by /healthz). Raises where it does not answer so."""
    headers = {"authorization": f"Bearer {worker.key}"} if worker.key else {}
    path = "/healthz" if worker.kind == "selfie" else "/v1/models"
    async with relay.session.get(worker.root + path, headers=headers, timeout=TIMEOUT) as response:
        response.raise_for_status()
        answer = await response.json(content_type=None)
    names = [] if worker.kind == "selfie" else [str(entry["id"]) for entry in answer["data"]]
    return announced(worker, names)


def announced(worker: StaticWorker, listed: Sequence[str]) -> tuple[Announcement, dict[str, str]]:
    """The worker as if it had announced itself, and which names mean another one there.

    A server may list hundreds of models, and names that no other worker could announce: the first that fit are taken.
    """
    names = [name for name in listed if _NAME(name)]
    aliased = worker.model or (names[0] if names else None)
    if aliased:
        names = [aliased, *(name for name in names if name != aliased)]
    takes_aliases = worker.kind == "chat" and not worker.abilities
    rewrites = {alias: aliased for alias in ALIASES if aliased and alias not in names} if takes_aliases else {}
    abilities = worker.abilities or (CHAT_ABILITIES if worker.kind == "chat" else IMAGE_ABILITIES)
    models = tuple(
        ServedModel(id=name, aliases=tuple(rewrites) if name == aliased else (), abilities=abilities)
        for name in names[:MAX_MODELS]
    )
    if worker.kind == "selfie":
        models = (ServedModel(id="faces", abilities=("faces",)),)
    announcement = Announcement(
        id="static:" + _NOT_IN_NAMES.sub("-", worker.root)[-180:],
        kind=worker.kind,
        url=worker.root,  # type: ignore[arg-type]  # pydantic parses it
        models=models,
        roles=worker.roles,
        capacity=STATIC_CAPACITY,
    )
    return announcement, rewrites
