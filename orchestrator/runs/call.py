"""One judged call of an engine, from its beginning until it is settled."""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypedDict, Unpack

from prometheus_client import Counter

from core.errors import ContentPolicy, SoundstageError, Upstream, UpstreamTimeout
from core.http.disconnect import ClientDisconnected
from core.usage import BYTES_PER_TOKEN, Usage
from orchestrator.access.limits import Needs
from orchestrator.access.payments import EngineWork
from orchestrator.access.quotas import Entry, Quotas
from orchestrator.policy.decide import CHECK_FAILED, Decision
from orchestrator.policy.floor import Subject, Surface
from orchestrator.runs.caller import Caller
from orchestrator.runs.record import Contents, Run

if TYPE_CHECKING:
    from orchestrator.runs.judge import Judge

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

WORKER_HEADER = "x-messages-sha256"
OUR_HEADERS = frozenset(
    (
        b"x-run-id",
        b"x-prompt-release",
        b"x-messages-sha256",
        b"x-prompt-tokens-sha256",
        b"x-proof",
        b"x-policy",
        b"x-floor",
        b"x-epoch-age",
    )
)
PROOFS = Counter("soundstage_proofs_total", "Messages hashes compared with the worker's.", ["outcome"])
REFUSALS = Counter("soundstage_refusals_total", "Requests refused by policy.", ["category"])
CLIENT_GONE, OK = 499, 200
NOBODY_WAITS = asyncio.CancelledError, ClientDisconnected, UpstreamTimeout
_proofs = cache(PROOFS.labels)


class Conditions(TypedDict, total=False):
    """Under what a call is judged besides its caller: the tier of its recipe and the policy version that its release
    names, who is in the picture, and whether nothing follows that would be judged again (then the guard is asked)."""

    recipe_tier: int | None
    policy_version: int | None
    subject: Subject
    last: bool


class Refused(ContentPolicy):
    """A refusal by policy: its category, never what was refused."""

    def __init__(self, run: Run, headers: Headers) -> None:
        super().__init__(f"Refused by the content policy: {run.category}.", code=run.category)
        self._headers = headers

    def headers(self) -> Headers:
        return [*super().headers(), *self._headers]


class Call:
    """Every way to an engine goes through this, so that what is recorded, counted and proved is the same:

        async with judge.call(caller) as call:
            await call.judge(texts, "text")  # may it be made?
            await call.limit(most)           # what it may take at most is set aside
            ...                              # the engine is asked
            call.compare(digest)             # it ran what was sent
            call.run.took(usage)

    Leaving the block settles it, however it ended: the limits get back what was not used, and the run is recorded.
    A call that was neither judged nor refused leaves no record.
    """

    judged = False
    late = False
    """The answer was cut because its time was over."""
    _refused = False
    _entry: Entry | None = None
    _most = Needs(0)
    _requests = 0
    _status = 0
    digest: "hashlib._Hash | None" = None
    """Of a judged answer that is passed on: its pieces are added to it."""
    _contents: Contents | None = None
    _days = 0

    def __init__(self, judge: "Judge", caller: Caller, run: Run, quotas: Quotas | None, *, recorded: bool) -> None:
        """`recorded`: not only where it is refused."""
        self.caller = caller
        self.run = run
        self.work = EngineWork()
        self.recorded = recorded
        self._judge = judge
        self._quotas = quotas

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """However the call ended: what it took is paid, and its run is recorded."""
        run = self.run
        gone = self.late or isinstance(error, NOBODY_WAITS)
        if gone and run.worker is not None and run.usage_source is None and self._most.tokens:
            run.took(Usage(self._most.tokens // BYTES_PER_TOKEN, source="estimate"))  # nobody knows: a quarter of it
        if self._entry is not None:
            tokens = 0 if self.work.asked or self.work.paid else run.tokens
            self._entry.leave(Needs(self._requests, tokens, self.work.pictures(gone=gone)))
        if self._refused or (self.recorded and self.judged):
            run.status = self._status or _status(error)
            run.milliseconds = (time.perf_counter() - run.began) * 1000
            run.answer_sha256 = self.digest.hexdigest() if self.digest is not None else run.answer_sha256
            self._judge.runs.add(run, self._contents, self._days)

    # -- may it be made? ------------------------------------------------------------------------------------------

    async def judge(self, texts: Sequence[str], surface: Surface, **conditions: Unpack[Conditions]) -> Decision:
        """By policy, what is about to be sent. Raises Refused."""
        decision = await self._judge.decide(self.caller, texts, surface, **conditions)
        run = self.run
        run.policy, run.tier = decision.policy, decision.tier
        run.decision, run.category = decision.action, decision.category
        self.judged = True
        if decision.action == "refuse":
            self._refuse(texts)
        return decision

    def refuse(self, category: str, texts: Sequence[str]) -> None:
        """For what was found elsewhere. Raises Refused, which is recorded by hash and reason."""
        self.run.decision, self.run.category = "refuse", category
        self._refuse(texts)

    def refuse_unchecked(self, field: str) -> None:
        """Token ids and embeddings hold text that no check can read. Raises Refused."""
        self.refuse(CHECK_FAILED, [field])

    def _refuse(self, texts: Sequence[str]) -> None:
        run = self.run
        REFUSALS.labels("guard" if (run.category or "").startswith("guard/") else run.category).inc()
        if run.messages_sha256 is None:
            run.messages_sha256 = hashlib.sha256("\x1f".join(texts).encode("utf-8", "replace")).hexdigest()
        self._refused = True
        raise Refused(run, self._judge.headers(run))

    # -- what it may take -----------------------------------------------------------------------------------------

    async def enter(self, needs: Needs) -> None:
        """Let a request in, for what it needs at most. Raises RateLimited, TooManyAtOnce, Unavailable."""
        if self._quotas is None:
            return
        self._quotas.saw(self.caller.key)
        if self.caller.key.limited:
            with self._noting_refusal():
                self._entry = await self._quotas.enter(self.caller.key, needs)
            self._requests = needs.requests

    async def limit(self, most: Callable[[], Needs]) -> None:
        """Set aside what an engine may take for it at most: of a request that was let in, what it lacks. Raises
        RateLimited, Unavailable."""
        if self._quotas is not None and self.caller.key.limited:
            self._most = most()._replace(requests=0)
            self._entry = self._entry or Entry(self._quotas, self.caller.key)
            with self._noting_refusal():
                await self._entry.reach(self._most)

    async def limit_pictures(self, asked: int) -> None:
        """The same of so many pictures."""
        self.work.asked = asked
        await self.limit(lambda: Needs(0, 0, asked))

    @contextlib.contextmanager
    def _noting_refusal(self) -> Iterator[None]:
        try:
            yield
        except SoundstageError:
            self._refused = True
            raise

    # -- the answer -----------------------------------------------------------------------------------------------

    def compare(self, reported: str | None) -> None:
        """The worker's hash of what it received with ours of what was sent. Raises Upstream where so configured."""
        run = self.run
        if run.messages_sha256 is None:
            return
        run.proof = "unverified" if reported is None else "verified"
        if reported is not None and reported != run.messages_sha256:
            run.proof = "mismatch"
            log.error("the worker ran other messages than were sent", extra={"run": run.id, "worker": run.worker})
        _proofs(run.proof).inc()
        if run.proof == "mismatch" and self._judge.refuse_mismatch:
            raise Upstream("The worker did not run the messages that were sent.", code="proof_mismatch")

    def marked(self, status: int, headers: Headers) -> Headers:
        """The head of an answer that is passed on: its headers, with what is known of the run and what is left of the
        limits."""
        self._status = status
        if self.judged:
            self.digest = hashlib.sha256()
            headers = [pair for pair in headers if pair[0] not in OUR_HEADERS] + self._judge.headers(self.run)
        return headers if self._entry is None else headers + self._entry.headers()

    async def keep(self, contents: Contents) -> None:
        """What the run is about, where its tenant keeps that."""
        standing = await self._judge.policies.standing(self.caller.key.tenant)
        if standing.store_contents:
            self._contents, self._days = contents, standing.contents_days


def _status(error: BaseException | None) -> int:
    if error is None:
        return OK
    if isinstance(error, SoundstageError):
        return error.status
    return CLIENT_GONE if isinstance(error, NOBODY_WAITS) else SoundstageError.status
