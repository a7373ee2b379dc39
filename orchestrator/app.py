"""The orchestrator as one ASGI application. Start here: what there is, and how it is wired.

Rooms give a `Part` each (core/part.py): its routes, its background tasks, what is open while it serves. A request
enters the shell (core/http/shell.py); the relay's paths go to gateway/exchange.py, the rest to FastAPI's routes.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial

import httpx2
from fastapi import FastAPI

from core.http.shell import Shell
from core.part import Part
from core.service import Readiness, create_service
from core.watchers import Watchers
from orchestrator.access import part as access_part
from orchestrator.access.dependencies import LimitHeaders, key_first
from orchestrator.engines.client import Engines
from orchestrator.gateway import part as gateway_part
from orchestrator.jobs import part as jobs_part
from orchestrator.legacy import part as legacy_part
from orchestrator.operate import part as operate_part
from orchestrator.operate.epoch import Epoch
from orchestrator.operate.outage import add_away, error_of
from orchestrator.operate.tracing import Tracing
from orchestrator.pipelines import part as pipelines_part
from orchestrator.pipelines.profile_routes import LARGE
from orchestrator.policy import part as policy_part
from orchestrator.recipes import part as recipes_part
from orchestrator.runs import part as runs_part
from orchestrator.runs.contents import Vault
from orchestrator.runs.erasure import erase_texts
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers import part as workers_part
from prompts.registry import Registry


def create_app(
    settings: OrchestratorSettings,
    dsn: str,
    tracing: Tracing | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> Shell:
    """The application over a migrated or empty database; its lifespan migrates, seeds and starts the watchers.

    `tracing`: makes spans of relayed requests, and is closed at the end. `transport`: what the openai clients call
    workers over, in place of the relay's connections.
    """
    operate = operate_part.build(settings, dsn, tracing)
    pool, registry, vault = operate.pool, Registry(operate.pool), Vault(operate.pool, operate.seal)
    operate.epoch.on_move(registry.drop)
    access = access_part.build(
        settings, operate, erase_contents=vault.erase_tenant, erase_texts=partial(erase_texts, pool)
    )
    workers = workers_part.build(settings, operate, access)
    engines = Engines(workers.pool, workers.relay, transport)
    policy = policy_part.build(settings, operate, access, engines, registry)
    runs = runs_part.build(settings, operate, access, policy, vault)
    recipes = recipes_part.build(operate, access, engines, registry, runs)
    pipelines = pipelines_part.build(settings, operate, workers, engines, recipes, registry)
    jobs = jobs_part.build(settings, operate, access, workers, pipelines)
    legacy = legacy_part.build(settings, operate, access, workers, recipes, registry)
    parts = [operate, access, workers, Part(resources=[engines]), policy, runs, recipes, pipelines, jobs, legacy]

    watchers = Watchers()
    api = FastAPI(title="Soundstage", lifespan=lambda _: _lifespan(parts, watchers, operate.epoch))
    add_away(api)
    api.add_middleware(LimitHeaders)
    for router in (router for part in parts for router in part.routers):
        api.include_router(router)
    service = create_service(
        "orchestrator",
        api,
        settings,
        routes=gateway_part.routes(settings, api, operate, access, workers, engines, recipes.runner, runs),
        ready=partial(_ready, parts),
        authorise=key_first(access.keys),
        large=LARGE,
        watchers=watchers,
        explain=error_of,
    )
    service.on_stop(jobs.rest)
    return service


@contextlib.asynccontextmanager
async def _lifespan(parts: Sequence[Part], watchers: Watchers, epoch: Epoch) -> AsyncIterator[None]:
    """Open everything, put into the database what must be there, then start what runs beside the requests."""
    async with contextlib.AsyncExitStack() as stack:
        for resource in (resource for part in parts for resource in part.resources):
            await stack.enter_async_context(resource)
        await stack.enter_async_context(watchers)
        for first in (first for part in parts for first in part.first):
            await first()
        await epoch.read()
        for part in parts:
            part.watch(watchers)
        try:
            yield
        finally:
            if watchers.failed is None:
                for part in parts:
                    await part.idle()
            await watchers.stop()


async def _ready(parts: Sequence[Part]) -> Readiness:
    """All parts can serve; what each says of itself."""
    found = [await part.ready() for part in parts]
    return Readiness(all(one.ok for one in found), {name: value for one in found for name, value in one.detail.items()})
