"""Records of runs, their sealed contents, and the judge that every request passes."""

from dataclasses import dataclass
from functools import partial

from core.part import Part
from orchestrator.access.part import Access
from orchestrator.operate.part import Operate
from orchestrator.policy.part import Policy
from orchestrator.runs import moderations, routes
from orchestrator.runs.contents import Vault
from orchestrator.runs.judge import Judge
from orchestrator.runs.record import RunLog
from orchestrator.settings import OrchestratorSettings


@dataclass(kw_only=True)
class Runs(Part):
    log: RunLog
    vault: Vault
    judge: Judge


def build(settings: OrchestratorSettings, operate: Operate, access: Access, policy: Policy, vault: Vault) -> Runs:
    log = RunLog(operate.pool, vault)
    judge = Judge(
        policy.in_force,
        log,
        operate.epoch,
        refuse_mismatch=settings.proof_mismatch == "refuse",
        stale_seconds=settings.policy_stale_seconds,
        guard=policy.guard,
        quotas=access.quotas,
    )
    watchers = {"runs": log.write, "old contents": vault.purge}
    if settings.runs_days:
        watchers["old runs"] = partial(log.purge, settings.runs_days)
    return Runs(
        log=log,
        vault=vault,
        judge=judge,
        routers=[
            moderations.router(access.keys, judge, policy.guard),
            routes.router(access.keys, operate.pool, log, vault),
        ],
        watchers=watchers,
    )
