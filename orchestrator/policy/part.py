"""The policies in force and the guard model, where one is configured."""

from dataclasses import dataclass
from functools import partial

from core.part import Part
from orchestrator.access.part import Access
from orchestrator.engines.client import Engines
from orchestrator.operate.part import Operate
from orchestrator.policy import routes
from orchestrator.policy.guard import Guard, GuardSettings
from orchestrator.policy.store import Policies, first_policy
from orchestrator.settings import OrchestratorSettings
from prompts.registry import Registry


@dataclass(kw_only=True)
class Policy(Part):
    in_force: Policies
    guard: Guard | None


def build(
    settings: OrchestratorSettings, operate: Operate, access: Access, engines: Engines, registry: Registry
) -> Policy:
    in_force = Policies(operate.access_pool)
    operate.epoch.on_move(in_force.drop)
    guard = None
    if settings.guard_model or settings.guard_recipe:
        given = GuardSettings(settings.guard_model, settings.guard_recipe, settings.guard_seconds)
        guard = Guard(engines, registry, given)
    return Policy(
        in_force=in_force,
        guard=guard,
        routers=[routes.router(access.keys, operate.pool)],
        first=[partial(first_policy, operate.pool)],
    )
