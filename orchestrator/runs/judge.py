"""What every request passes, relayed or made by a recipe: it is judged, marked with proof, and recorded."""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from dataclasses import replace
from functools import cache

from prometheus_client import Counter
from starlette.types import Message, Send

from core.errors import ContentPolicy, SoundstageError, Upstream, UpstreamTimeout
from core.usage import BYTES_PER_TOKEN, Usage
from orchestrator.access.limits import Needs
from orchestrator.access.payments import Answer, PictureCount
from orchestrator.access.quotas import Quotas
from orchestrator.operate.epoch import Epoch
from orchestrator.policy import decide as policy
from orchestrator.policy import floor
from orchestrator.policy.decide import Decision
from orchestrator.policy.floor import Subject, Surface
from orchestrator.policy.guard import Guard
from orchestrator.policy.store import Policies, PolicyUnavailableError, Standing
from orchestrator.policy.texts import shows_somebody
from orchestrator.runs.caller import Caller
from orchestrator.runs.record import Contents, Run, RunLog, new_run_id, now

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

WORKER_HEADER = "x-messages-sha256"
OUR_HEADERS = frozenset(
    (
        *(b"x-run-id", b"x-prompt-release", b"x-messages-sha256", b"x-prompt-tokens-sha256", b"x-proof"),
        *(b"x-policy", b"x-floor", b"x-epoch-age"),
    )
)
PROOFS = Counter("soundstage_proofs_total", "Messages hashes compared with the worker's.", ["outcome"])
_proofs = cache(PROOFS.labels)
REFUSALS = Counter("soundstage_refusals_total", "Requests refused by policy.", ["category"])
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


class Refused(ContentPolicy):
    """A refusal by policy: its category, never what was refused."""

    def __init__(self, run: Run, headers: Headers) -> None:
        super().__init__(f"Refused by the content policy: {run.category}.", code=run.category)
        self._headers = headers

    def headers(self) -> Headers:
        return [*super().headers(), *self._headers]


class Judge:
    """Judges by policy, compares hashes, keeps runs. One for each process."""

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
        self._quotas = quotas
        self.policies = policies
        self.runs = runs
        self._epoch = epoch
        self._refuse_mismatch = refuse_mismatch
        self._stale_seconds = stale_seconds
        self._guard = guard

    def begin(self, caller: Caller) -> Run:
        return Run(
            id=new_run_id(),
            at=now(),
            tenant=caller.key.tenant,
            key_id=caller.key.id,
            request_id=caller.request_id,
            route=caller.route,
            floor=FLOOR,
            began=time.perf_counter(),
        )

    async def standing(self, tenant: str) -> Standing:
        """What a tenant is judged by. Raises PolicyUnavailableError: not known, or known from too long ago to hold."""
        if self._epoch.age > self._stale_seconds:
            raise PolicyUnavailableError
        return await self.policies.standing(tenant)

    async def admit(
        self,
        run: Run,
        caller: Caller,
        texts: Sequence[str],
        surface: Surface,
        *,
        recipe_tier: int | None = None,
        policy_version: int | None = None,
        subject: Subject = Subject(),  # noqa: B008 - a frozen value
        last: bool = True,
    ) -> Decision:
        """Judge what is about to be sent. Raises Refused, which is recorded by hash and reason.

        The guard, where there is one, is asked about what the policy allows, once: not where it is not the `last` look.
        """
        try:
            standing = await self.standing(caller.key.tenant)
            rules = standing.rules
            if policy_version is not None:
                rules = rules + await self.policies.pinned(policy_version)
        except PolicyUnavailableError:
            found = Decision("refuse", policy.GENERAL, policy.CHECK_FAILED, "unknown")
        else:
            if any(map(shows_somebody, texts)):
                subject = replace(subject, real=True)
            tier = policy.tier_in_force(caller.key.max_tier, standing.max_tier, recipe_tier, caller.asked_tier)
            found = await in_turns(policy.deciding(texts, tier=tier, surface=surface, rules=rules, subject=subject))
            if self._guard is not None and last and found.action != "refuse":
                found = await self._guard.judged(found, texts, caller.key.tenant, caller.request_id, caller.trace)
        run.policy, run.tier, run.decision, run.category = found.policy, found.tier, found.action, found.category
        if found.action == "refuse":
            self._refuse(run, texts)
        return found

    def refuse(self, run: Run, category: str, texts: Sequence[str]) -> None:
        """For what was found elsewhere. Raises Refused, which is recorded by hash and reason."""
        run.decision, run.category = "refuse", category
        self._refuse(run, texts)

    def refuse_unchecked(self, run: Run, field: str) -> None:
        """Token ids and embeddings hold text that no check can read. Raises Refused."""
        self.refuse(run, policy.CHECK_FAILED, [field])

    def _refuse(self, run: Run, texts: Sequence[str]) -> None:
        REFUSALS.labels("guard" if (run.category or "").startswith("guard/") else run.category).inc()
        if run.messages_sha256 is None:
            run.messages_sha256 = hashlib.sha256("\x1f".join(texts).encode("utf-8", "replace")).hexdigest()
        self.settle(run, ContentPolicy.status)
        raise Refused(run, self.headers(run))

    def compare(self, run: Run, reported: str | None) -> None:
        """The worker's hash of what it received with ours of what was sent. Raises Upstream where so configured."""
        if run.messages_sha256 is None:
            return
        run.proof = "unverified" if reported is None else "verified"
        if reported is not None and reported != run.messages_sha256:
            run.proof = "mismatch"
            log.error("the worker ran other messages than were sent", extra={"run": run.id, "worker": run.worker})
        _proofs(run.proof).inc()
        if run.proof == "mismatch" and self._refuse_mismatch:
            raise Upstream("The worker did not run the messages that were sent.", code="proof_mismatch")

    def headers(self, run: Run) -> Headers:
        """What is known of a run now."""
        category = f"; category={run.category}" if run.category else ""
        said = f"{run.policy}; tier={run.tier}; decision={run.decision}{category}"
        found = [
            (b"x-run-id", run.id.encode()),
            (b"x-policy", said.encode("ascii", "replace")),
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

    @contextlib.asynccontextmanager
    async def within_limits(self, run: Run, caller: Caller, asked: Callable[[], Needs]) -> AsyncIterator[Answer]:
        """For the block, which asks an engine, what that may take at most is set aside of the limits of the caller's
        key and tenant; what it took is then what the run states. Of a relayed request only what it lacks is taken, and
        its answer says at its end what it took. Raises RateLimited, Unavailable."""
        answer = Answer()
        if self._quotas is None or not caller.key.limited:
            yield answer
            return
        needs = asked()._replace(requests=0)
        if caller.entry is not None:
            await caller.entry.reach(needs)
            yield answer
            return
        async with self._quotas.aside(caller.key, needs, lambda: 0 if answer.paid else run.tokens):
            try:
                yield answer
            except (asyncio.CancelledError, UpstreamTimeout):
                if run.worker is not None and run.usage_source is None:  # nobody knows it: a quarter of the most
                    run.took(Usage(needs.tokens // BYTES_PER_TOKEN, source="estimate"))
                raise

    @contextlib.asynccontextmanager
    async def pictures_within_limits(self, caller: Caller, asked: int) -> AsyncIterator[PictureCount]:
        """For the block, which has so many pictures drawn, they are set aside of the limits of the caller's key and
        tenant; those that it counts are paid. Raises RateLimited, Unavailable."""
        if self._quotas is None or not caller.key.limited:
            yield PictureCount(asked=asked)
            return
        async with self._quotas.pictures(caller.key, asked) as count:
            yield count

    def settle(self, run: Run, status: int, contents: Contents | None = None, days: int = 0) -> None:
        """The run has ended: it is recorded, once."""
        if run.status == 0:
            run.status = status
            run.milliseconds = (time.perf_counter() - run.began) * 1000
            self.runs.add(run, contents, days)


class Marked:
    """`send` with the run's headers on the answer, and the hash of its bytes taken as they pass."""

    def __init__(self, judge: Judge, run: Run, send: Send) -> None:
        self._judge = judge
        self._run = run
        self._send = send
        self._digest = hashlib.sha256()
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            kept = [pair for pair in message["headers"] if pair[0] not in OUR_HEADERS]
            message["headers"] = kept + self._judge.headers(self._run)
        else:
            self._digest.update(message["body"])
        await self._send(message)

    def settle(self, error: BaseException | None = None, contents: Contents | None = None, days: int = 0) -> None:
        """Record the run with the answer's status, or with that of what ended it before it began."""
        status = self.status or (error.status if isinstance(error, SoundstageError) else 499)
        self._run.answer_sha256 = self._digest.hexdigest() if self.status else None
        self._judge.settle(self._run, status, contents, days)
