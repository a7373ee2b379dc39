"""Workers that do not announce themselves: those that the settings name, and those that an admin registered by URL.
What such a worker announces is made here of what it lists, what it was found to answer, and what was declared."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from core.wire.workers import Ability, Announcement, Kind, ServedModel
from orchestrator.settings import OrchestratorSettings

GUARD_ABILITIES: tuple[Ability, ...] = ("moderations", "chat", "tokenize")
IMAGE_ABILITIES: tuple[Ability, ...] = ("images", "image_edits")
STATIC_CAPACITY = 256
ALIASES = ("qwen_instruct", "qwen_base")
REGISTERED, NAMED = "engine:", "static:"
RESERVED = (REGISTERED, NAMED)
"""How ids begin of servers that an admin registered, and that the settings name: no worker announces itself so."""
MAX_MODELS = 64  # an announcement holds no more

_NAME = re.compile(r"[\w.:/@+-]{1,200}").fullmatch
_NOT_IN_NAMES = re.compile(r"[^\w.:/@+-]")


@dataclass(frozen=True)
class StaticWorker:
    """An address, and what was declared of it; what was not is found out by asking. `aliases` are (name, model there);
    a model of None is its first. `models` are those that it may be asked for."""

    url: str
    kind: Kind
    key: str | None
    roles: tuple[str, ...] = ()
    abilities: tuple[Ability, ...] = ()
    aliases: tuple[tuple[str, str | None], ...] = ()
    models: tuple[str, ...] = ()
    capacity: int = STATIC_CAPACITY
    name: str | None = None

    @property
    def root(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")

    @property
    def id(self) -> str:
        return f"{REGISTERED}{self.name}" if self.name else NAMED + _NOT_IN_NAMES.sub("-", self.root)[-180:]


def workers_of(settings: OrchestratorSettings, key: str | None = None) -> list[StaticWorker]:
    """The workers that the settings name; `key` is what workers of ours are called with."""
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
    found = [StaticWorker(url, "image", key, of, IMAGE_ABILITIES) for url, of in roles.items()]
    found += [StaticWorker(url, "selfie", key) for url in settings.interface_selfie_feature_worker_urls]
    if settings.llm_url:
        own = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
        aliases = tuple((alias, settings.llm_model) for alias in ALIASES)
        declared = cast(tuple[Ability, ...], settings.llm_abilities)  # the settings checked them
        found.append(StaticWorker(settings.llm_url, "chat", own, (), declared, aliases))
    if settings.guard_url:
        own = settings.guard_api_key.get_secret_value() if settings.guard_api_key else None
        found.append(StaticWorker(settings.guard_url, "chat", own, abilities=GUARD_ABILITIES))
    return found


def announcement_of(
    worker: StaticWorker, listed: Sequence[str], abilities: tuple[Ability, ...]
) -> tuple[Announcement, dict[str, str]]:
    """The worker as if it had announced itself, and which names mean another one there. A server may list hundreds of
    models, and names that no other worker could announce: the first that fit are taken, those that an alias means
    before all."""
    names = [name for name in worker.models or listed if _NAME(name)]
    meant = {alias: model or (names[0] if names else None) for alias, model in worker.aliases}
    rewrites = {alias: model for alias, model in meant.items() if model and alias not in names}
    names = list(dict.fromkeys([*(model for model in meant.values() if model), *names]))
    models = tuple(
        ServedModel(
            id=name, aliases=tuple(alias for alias, model in rewrites.items() if model == name), abilities=abilities
        )
        for name in names[:MAX_MODELS]
    )
    if worker.kind == "selfie":
        models = (ServedModel(id="faces", abilities=("faces",)),)
    announcement = Announcement(
        id=worker.id,
        kind=worker.kind,
        url=worker.root,  # type: ignore[arg-type]  # pydantic parses it
        models=models,
        roles=worker.roles,
        capacity=worker.capacity,
    )
    return announcement, rewrites
