"""The pipelines' means and their recipes. Their routes need somebody who calls runs: `routers` is given it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from core.part import Part
from orchestrator.access.part import Access
from orchestrator.engines.client import Engines
from orchestrator.operate.part import Operate
from orchestrator.pipelines import known, profile_routes, routes
from orchestrator.pipelines.base import Pipeline, Studio
from orchestrator.pipelines.calls import RunService
from orchestrator.pipelines.likenesses import Likenesses
from orchestrator.pipelines.warming import Warming
from orchestrator.recipes.part import Recipes
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers.part import Workers
from prompts.registry import Registry, import_recipes
from prompts.sources import read_folder, shipped

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Pipelines(Part):
    studio: Studio
    table: Mapping[str, Pipeline]


def build(
    settings: OrchestratorSettings,
    operate: Operate,
    workers: Workers,
    engines: Engines,
    recipes: Recipes,
    registry: Registry,
) -> Pipelines:
    table, pool = known(settings.pipeline_modules), operate.pool
    studio = Studio(recipes.runner, engines, operate.blobs, Likenesses(pool), settings.default_image_size)

    async def first_recipes() -> None:
        made = await import_recipes(pool, shipped(), author="soundstage")
        for own in table.values():
            if own.recipes is not None:
                made += await import_recipes(pool, read_folder(own.recipes), author=f"pipeline {own.name}")
        if made:
            log.info("recipes imported", extra={"releases": made})

    warming = Warming(workers.pool, engines, registry, table)
    watchers = {"warming": warming.watch} if settings.warm_recipes else {}
    return Pipelines(studio=studio, table=table, first=[first_recipes], watchers=watchers)


def routers(
    settings: OrchestratorSettings, access: Access, pipelines: Pipelines, run_service: RunService
) -> Sequence[APIRouter]:
    """The routes of all pipelines, whose runs `run_service` calls."""
    keys, quotas, studio = access.keys, access.quotas, pipelines.studio
    return [
        routes.router(keys, quotas, studio, pipelines.table, run_service, settings.pipeline_seconds),
        profile_routes.router(
            keys,
            quotas,
            studio,
            run_service,
            longest=settings.pipeline_seconds,
            max_image=settings.max_body_bytes,
            strength_max=settings.profile_strength_max,
        ),
    ]
