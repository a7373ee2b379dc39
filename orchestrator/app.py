"""The orchestrator as one ASGI application. Start here: what there is, and how it is wired.

A request enters the shell (core/service.py); the relay's paths go to gateway/exchange.py, the rest to FastAPI's routes.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
from fastapi import FastAPI

from core.db.migrate import migrate
from core.db.pool import Pool, make_pool, opened
from core.http.relay import Relay
from core.http.shell import Shell
from core.keys import read_or_make
from core.service import Readiness, create_service
from core.watchers import Watchers
from orchestrator.access import alias_routes as aliases
from orchestrator.access import key_routes
from orchestrator.access import tenant_routes as tenants
from orchestrator.access.dependencies import LimitHeaders, key_first
from orchestrator.access.keys import Keys, create_key
from orchestrator.access.quotas import Quotas
from orchestrator.engines.client import Engines
from orchestrator.gateway import exchange
from orchestrator.gateway.exchange import Gateway
from orchestrator.gateway.media import Media
from orchestrator.gateway.openapi import publish
from orchestrator.legacy import chat_routes as chat
from orchestrator.legacy import enhance_routes as enhance
from orchestrator.legacy.conversations import Conversations
from orchestrator.legacy.enhance import job_types
from orchestrator.legacy.enhance.cache import EnhancementCache
from orchestrator.legacy.enhance.enhancer import Enhancer
from orchestrator.legacy.enhance.service import EnhanceService
from orchestrator.legacy.enhance.tokens import Counters
from orchestrator.legacy.intake.handler import JobHandler
from orchestrator.legacy.intake.intake import intake_of
from orchestrator.legacy.older_chat import OlderChat
from orchestrator.operate import blob_routes, blobs
from orchestrator.operate.epoch import Epoch
from orchestrator.operate.outage import add_away, error_of
from orchestrator.operate.seal import Seal
from orchestrator.operate.tracing import Tracing
from orchestrator.pipelines import known
from orchestrator.pipelines import profile_routes as profile
from orchestrator.pipelines import routes as pipelines
from orchestrator.pipelines.base import Pipeline, Studio
from orchestrator.pipelines.calls import MemoryRuns, RunService
from orchestrator.pipelines.likenesses import Likenesses
from orchestrator.pipelines.warming import Warming
from orchestrator.policy import routes as policies
from orchestrator.policy.guard import Guard, GuardSettings
from orchestrator.policy.store import Policies, first_policy
from orchestrator.recipes import replay
from orchestrator.recipes import routes as prompts
from orchestrator.recipes.messages import MessageRunner
from orchestrator.recipes.recipe import RecipeRunner
from orchestrator.runs import moderations
from orchestrator.runs import routes as run_routes
from orchestrator.runs.contents import Vault, contents_key
from orchestrator.runs.erasure import erase_texts
from orchestrator.runs.judge import Judge
from orchestrator.runs.record import RunLog
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers import model_routes as models
from orchestrator.workers import routes as workers
from orchestrator.workers import static as static_workers
from orchestrator.workers.probe import Prober
from orchestrator.workers.registered import RegisteredEngines
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.rules import rules_of
from prompts.registry import Registry, import_recipes
from prompts.sources import read_folder, shipped

if TYPE_CHECKING:
    from orchestrator.jobs.service import Jobs

log = logging.getLogger(__name__)

ACCESS_CONNECTIONS = 4
"""Apart from all others: whether a request is let in is never refused because connections are busy with what was."""
READY_SECONDS = 1.5  # for the database to answer whoever asks for /readyz


@dataclass(frozen=True)
class Orchestrator:
    """The parts of one process, each with one owner."""

    keys: Keys
    registry: Registry
    workers: WorkerPool
    epoch: Epoch
    relay: Relay
    engines: Engines
    recipes: RecipeRunner
    settings: OrchestratorSettings

    async def ready(self) -> Readiness:
        """The database answers, and of every kind of worker that is needed one can be asked."""
        usable = {w.announcement.kind for w in self.workers.usable()}
        database = await self.epoch.read_within(READY_SECONDS)
        detail = {"database": database, "workers": sorted(usable), "epoch_age_s": round(self.epoch.age, 1)}
        return Readiness(database and usable >= set(self.settings.ready_needs), detail)


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
    seconds = settings.database_seconds
    pool = make_pool(dsn, statement_seconds=seconds)
    access_pool = make_pool(dsn, size=ACCESS_CONNECTIONS, statement_seconds=seconds)
    key, local_key = _worker_key(settings), read_or_make(settings.data_dir.resolve() / "keys" / "local_api_key")
    timeouts = settings.timeouts()
    keys, registry, relay = Keys(access_pool), Registry(pool), Relay(timeouts)
    quotas = Quotas(access_pool)
    workers_pool = WorkerPool(pool, key, settings.lease_seconds, rules_of(settings))
    engines = Engines(workers_pool, relay, transport)
    in_force = Policies(access_pool)
    epoch = Epoch(dsn, pool, (keys.drop, registry.drop, in_force.drop))
    seal = Seal(contents_key(settings.data_dir.resolve() / "keys" / "contents_key"))
    vault, registered = Vault(pool, seal), RegisteredEngines(pool, seal)
    prober = Prober(
        workers_pool,
        relay,
        static_workers.workers_of(settings, key),
        registered.known,
        every=settings.probe_seconds,
        announced_every=settings.ready_probe_seconds,
        timeout=settings.probe_timeout_seconds,
        lease=settings.lease_seconds,
    )
    runs = RunLog(pool, vault)
    guard = _guard(settings, engines, registry)
    judge = Judge(
        in_force,
        runs,
        epoch,
        refuse_mismatch=settings.proof_mismatch == "refuse",
        stale_seconds=settings.policy_stale_seconds,
        guard=guard,
        quotas=quotas,
    )
    recipes = RecipeRunner(registry, engines, judge)
    runner = MessageRunner(engines, judge)
    cache, counters = EnhancementCache(pool, seal), Counters(settings.wan_tokenizer)
    enhancer = Enhancer(runner, recipes, registry, cache=cache, counters=counters)
    kinds = job_types.read(settings.job_types)
    enhancement = EnhanceService(enhancer, kinds)
    conversations = Conversations(
        pool,
        seal,
        most_tokens=settings.conversation_tokens,
        hours=settings.conversation_hours,
        wait_seconds=settings.conversation_wait_seconds,
    )
    older_chat = OlderChat(runner, recipes, conversations, *job_types.conversations(kinds))
    intake = intake_of(settings, pool, seal, keys=keys, handler=JobHandler(enhancement, older_chat))
    pictures, pipeline_table = blobs.blobs_of(settings), known(settings.pipeline_modules)
    studio = Studio(recipes, engines, pictures, Likenesses(pool), settings.default_image_size)
    jobs = _jobs(settings, dsn, pool, studio, pipeline_table, workers_pool, seal, tracing)
    run_service: RunService = jobs.desk if jobs else MemoryRuns(studio, pipeline_table, settings.pipeline_seconds)
    warming = Warming(workers_pool, engines, registry, pipeline_table)
    orchestrator = Orchestrator(keys, registry, workers_pool, epoch, relay, engines, recipes, settings)

    watchers = Watchers()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await migrate(dsn)
        async with opened(pool), opened(access_pool), relay, engines, watchers:
            await _first_start(pool, local_key, key, pipeline_table)
            await epoch.read()
            watchers.watch("relay's timeouts", relay.sweeper)
            watchers.start("epoch", epoch.watch())
            watchers.start("leases of workers", workers_pool.poll())
            watchers.start("probes", prober.run())
            watchers.start("runs", runs.write())
            if settings.runs_days:
                watchers.start("old runs", runs.purge(settings.runs_days))
            watchers.start("old contents", vault.purge())
            watchers.start("quotas", quotas.keep())
            watchers.start("places at once", quotas.slots.keep())
            watchers.start("old pictures", pictures.purge())
            watchers.start("old conversations", conversations.purge())
            if intake:
                watchers.start("queue intake", intake.run())
            if settings.warm_recipes:
                watchers.start("warming", warming.watch())
            async with jobs or contextlib.nullcontext():
                if jobs:
                    jobs.watch(watchers)
                try:
                    yield
                finally:
                    if jobs and not watchers.failed:
                        await jobs.idle()
                    await watchers.stop()
                    if tracing is not None:
                        await asyncio.to_thread(tracing.close)

    api = FastAPI(title="Soundstage", lifespan=lifespan)
    add_away(api)
    api.add_middleware(LimitHeaders)
    pure_route = chat.PureRoute(runner, workers_pool, settings.chat_max_tokens)
    api.include_router(chat.router(keys, quotas, pure_route, older_chat))
    api.include_router(enhance.router(keys, quotas, enhancement, pure_route=pure_route, workers=workers_pool))
    api.include_router(models.router(keys, workers_pool))
    api.include_router(aliases.router(keys, pool))
    api.include_router(workers.router(keys, workers_pool, registered))
    api.include_router(key_routes.router(keys, pool))
    api.include_router(pipelines.router(keys, quotas, studio, pipeline_table, run_service, settings.pipeline_seconds))
    api.include_router(blob_routes.router(pictures))
    if jobs:
        api.include_router(jobs.router(keys))
    api.include_router(
        profile.router(
            keys,
            quotas,
            studio,
            run_service,
            longest=settings.pipeline_seconds,
            max_image=settings.max_body_bytes,
            strength_max=settings.profile_strength_max,
        )
    )
    api.include_router(moderations.router(keys, judge, guard))
    api.include_router(policies.router(keys, pool))
    api.include_router(prompts.router(keys, pool, registry, engines))
    api.include_router(tenants.router(keys, pool, vault.erase_tenant, functools.partial(erase_texts, pool)))
    api.include_router(run_routes.router(keys, pool, runs, vault))
    api.include_router(replay.router(keys, quotas, pool, runs, vault, registry, recipes))
    media = Media(settings.media_domains)
    publish(api, exchange.PATHS)
    relayed = Gateway(
        *(keys, quotas, workers_pool, relay, engines, recipes, judge, media),
        prove_tokens=settings.prove_tokens,
        limits=settings.timeouts_of_routes(),
        tracing=tracing,
    )
    routes = {path: {"POST": relayed} for path in exchange.PATHS}
    service = create_service(
        *("orchestrator", api, settings),
        routes=routes,
        ready=orchestrator.ready,
        authorise=key_first(keys),
        large=profile.LARGE,
        watchers=watchers,
        explain=error_of,
    )
    if jobs:
        service.on_stop(jobs.rest)
    return service


def _jobs(
    settings: OrchestratorSettings,
    dsn: str,
    pool: Pool,
    studio: Studio,
    pipeline_table: Mapping[str, Pipeline],
    workers_pool: WorkerPool,
    seal: Seal,
    tracing: Tracing | None,
) -> "Jobs | None":
    if not settings.durable_jobs:
        return None
    from orchestrator.jobs.service import Jobs  # the durable engine: half a second that others need not wait

    return Jobs(settings, dsn, pool, studio, pipeline_table, workers_pool, seal, tracing)


def _guard(settings: OrchestratorSettings, engines: Engines, registry: Registry) -> Guard | None:
    if not settings.guard_model and not settings.guard_recipe:
        return None
    return Guard(engines, registry, GuardSettings(settings.guard_model, settings.guard_recipe, settings.guard_seconds))


def _worker_key(settings: OrchestratorSettings) -> str:
    """What workers register with and are called with: as given, else the one in the data directory."""
    if settings.wan_worker_api_key is not None:
        return settings.wan_worker_api_key.get_secret_value()
    return read_or_make(settings.data_dir.resolve() / "keys" / "worker_key")


async def _first_start(pool: Pool, local_key: str, worker_key: str, pipelines: Mapping[str, Pipeline]) -> None:
    """The keys of the data directory and the recipes that ship; nothing where they are there already."""
    await create_key(pool, "local", ["chat", "images", "pipelines", "admin"], secret=local_key)
    await create_key(pool, "workers", ["worker"], secret=worker_key)
    await first_policy(pool)
    made = await import_recipes(pool, shipped(), author="soundstage")
    for own in pipelines.values():
        if own.recipes is not None:
            made += await import_recipes(pool, read_folder(own.recipes), author=f"pipeline {own.name}")
    if made:
        log.info("recipes imported", extra={"releases": made})
