"""The relayed request, wired: raw ASGI handlers by path."""

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.types import ASGIApp

from orchestrator.access.part import Access
from orchestrator.engines.client import Engines
from orchestrator.gateway.exchange import Gateway, Recipes
from orchestrator.gateway.media import Media
from orchestrator.gateway.openapi import publish
from orchestrator.gateway.paths import PATHS
from orchestrator.operate.part import Operate
from orchestrator.runs.part import Runs
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers.part import Workers


def routes(
    settings: OrchestratorSettings,
    api: FastAPI,
    operate: Operate,
    access: Access,
    workers: Workers,
    engines: Engines,
    recipes: Recipes,
    runs: Runs,
) -> Mapping[str, Mapping[str, ASGIApp]]:
    """The relay's paths, which are published in the OpenAPI of `api`."""
    publish(api, PATHS)
    relayed = Gateway(
        keys=access.keys,
        workers=workers.pool,
        relay=workers.relay,
        engines=engines,
        recipes=recipes,
        judge=runs.judge,
        media=Media(settings.media_domains),
        prove_tokens=settings.prove_tokens,
        limits=settings.timeouts_of_routes(),
        tracing=operate.tracing,
    )
    return {path: {"POST": relayed} for path in PATHS}
