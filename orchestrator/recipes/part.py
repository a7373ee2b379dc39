"""Stored prompts and messages, answered."""

from dataclasses import dataclass

from core.part import Part
from orchestrator.access.part import Access
from orchestrator.engines.client import Engines
from orchestrator.operate.part import Operate
from orchestrator.recipes import label_routes, replay, routes
from orchestrator.recipes.messages import MessageRunner
from orchestrator.recipes.recipe import RecipeRunner
from orchestrator.runs.part import Runs
from prompts.registry import Registry


@dataclass(kw_only=True)
class Recipes(Part):
    runner: RecipeRunner
    messages: MessageRunner


def build(operate: Operate, access: Access, engines: Engines, registry: Registry, runs: Runs) -> Recipes:
    runner = RecipeRunner(registry, engines, runs.judge)
    keys, pool = access.keys, operate.pool
    return Recipes(
        runner=runner,
        messages=MessageRunner(engines, runs.judge),
        routers=[
            routes.router(keys, pool),
            label_routes.router(keys, pool, registry, engines),
            replay.router(keys, access.quotas, pool, runs.log, runs.vault, registry, runner),
        ],
    )
