"""What every request passes, relayed or made by a recipe: it is judged by policy, and its run is kept."""

import asyncio
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Unpack

from orchestrator.access.quotas import Quotas
from orchestrator.operate.epoch import Epoch
from orchestrator.policy import decide as policy
from orchestrator.policy import floor
from orchestrator.policy.decide import Decision
from orchestrator.policy.floor import Subject, Surface
from orchestrator.policy.guard import Guard
from orchestrator.policy.store import Policies, PolicyUnavailableError, Standing
from orchestrator.policy.texts import shows_somebody
from orchestrator.runs.call import Call, Conditions, Headers
from orchestrator.runs.caller import Caller
from orchestrator.runs.record import Run, RunLog, new_run_id, now

NOBODY = Subject()
FLOOR = floor.version()
_FLOOR_HEADER = (b"x-floor", FLOOR.encode())


async def in_turns(deciding: Generator[None, None, Decision]) -> Decision:
    """The decision. Where much is to be scanned, others have their turn between the pieces."""
    while True:
        try:
            next(deciding)
        except StopIteration as done:
            found: Decision = done.value
            return found
        await asyncio.sleep(0)


class Judge:
    """Judges by policy and keeps runs. One for each process."""

    def __init__(
        self,
        policies: Policies,
        runs: RunLog,
        epoch: Epoch,
        *,
        refuse_mismatch: bool,
        stale_seconds: float,
        guard: Guard | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self.policies = policies
        self.runs = runs
        self.refuse_mismatch = refuse_mismatch
        self._quotas = quotas
        self._epoch = epoch
        self._stale_seconds = stale_seconds
        self._guard = guard

    def call(self, caller: Caller, *, recorded: bool = True) -> Call:
        """A call of an engine, to be entered with `async with`. `recorded`: not only where it is refused."""
        run = Run(
            id=new_run_id(),
            at=now(),
            tenant=caller.key.tenant,
            key_id=caller.key.id,
            request_id=caller.request_id,
            route=caller.route,
            floor=FLOOR,
            began=time.perf_counter(),
        )
        return Call(self, caller, run, self._quotas, recorded=recorded)

    async def standing(self, tenant: str) -> Standing:
        """What a tenant is judged by. Raises PolicyUnavailableError: not known, or known from too long ago to hold."""
        if self._epoch.age > self._stale_seconds:
            raise PolicyUnavailableError
        return await self.policies.standing(tenant)

    async def decide(
        self, caller: Caller, texts: Sequence[str], surface: Surface, **conditions: Unpack[Conditions]
    ) -> Decision:
        """What the policy in force says of these texts, and of what it allows the guard, where there is one and nothing
        follows. A check that fails is a refusal."""
        subject, version = conditions.get("subject", NOBODY), conditions.get("policy_version")
        try:
            standing = await self.standing(caller.key.tenant)
            rules = standing.rules
            if version is not None:
                rules = rules + await self.policies.rules_of(version)
        except PolicyUnavailableError:
            return Decision("refuse", policy.GENERAL, policy.CHECK_FAILED, "unknown")
        if any(map(shows_somebody, texts)):
            subject = replace(subject, real=True)
        tier = policy.tier_in_force(
            caller.key.max_tier, standing.max_tier, conditions.get("recipe_tier"), caller.asked_tier
        )
        decision = await in_turns(policy.deciding(texts, tier=tier, surface=surface, rules=rules, subject=subject))
        if self._guard is None or decision.action == "refuse" or not conditions.get("last", True):
            return decision
        return await self._guard.opinion(decision, texts, caller.key.tenant, caller.request_id, caller.trace)

    def headers(self, run: Run) -> Headers:
        """What is known of a run now."""
        category = f"; category={run.category}" if run.category else ""
        decided = f"{run.policy}; tier={run.tier}; decision={run.decision}{category}"
        found = [
            (b"x-run-id", run.id.encode()),
            (b"x-policy", decided.encode("ascii", "replace")),
            _FLOOR_HEADER,
            (b"x-epoch-age", b"%.3f" % self._epoch.age),
        ]
        if run.recipe is not None:
            found.append((b"x-prompt-release", f"{run.recipe}@{run.version}".encode()))
        if run.messages_sha256 is not None and run.decision != "refuse":
            found.append((b"x-messages-sha256", run.messages_sha256.encode()))
            found.append((b"x-proof", run.proof.encode()))
        if run.prompt_tokens_sha256 is not None:
            found.append((b"x-prompt-tokens-sha256", run.prompt_tokens_sha256.encode()))
        return found
