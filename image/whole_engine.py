"""The engine for pipelines that run whole requests: schedule → run → update, with a look at the commands every step."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from image.device import Device
from image.events import Admitted, Finished, Partial, Progress
from image.fair_shares import Shares
from image.faults import Faults
from image.mailbox import Mailbox
from image.messages import CommandQueue, Counters, Publish
from image.pipelines.base import Abilities
from image.request import ImageRequest, Pixels, RequestId
from image.scheduler import Budget, Candidate, Decision, Reason, Verdict, schedule

if TYPE_CHECKING:
    from image.pipelines.whole import OnStep, WholePipeline

log = logging.getLogger(__name__)

_ONE_AT_A_TIME = Budget(tokens=1, residents=1, padding=0)
_TOKEN_PIXELS = 256  # an image counts as many tokens as it would in Z-Image
_SHARED = ("width", "height", "steps", "guidance", "source", "adapter")  # by all requests of a run


class _Nobody(Exception):
    """Everybody in this run has left."""


@dataclass(slots=True)
class _Entry:
    id: RequestId
    request: ImageRequest
    arrived: int  # reading of the work clock
    previewed: int = 0

    @property
    def tokens(self) -> int:
        return max(1, self.request.width * self.request.height // _TOKEN_PIXELS)

    def candidate(self, deadline: int | None = None) -> Candidate:
        """`deadline`: a reading of the work clock."""
        request = self.request
        return Candidate(
            id=self.id,
            tokens=self.tokens,
            rows=2 if request.guidance > 1 else 1,
            steps_left=request.own_steps,
            arrived=self.arrived,
            resident=False,
            tenant=request.standing.tenant,
            priority=request.standing.priority,
            deadline=deadline,
        )

    def equal(self, other: _Entry) -> bool:
        """Whether they can share a run. A pipeline may take no negative prompt for something else than an empty one."""
        mine, theirs = self.request, other.request
        return (
            not (mine.exact or theirs.exact)
            and bool(mine.negative_prompt) == bool(theirs.negative_prompt)
            and all(getattr(mine, name) == getattr(theirs, name) for name in _SHARED)
        )


@dataclass
class WholeEngine:
    """Everything here runs on the engine's thread."""

    pipeline: WholePipeline
    commands: CommandQueue
    publish: Publish
    device: Device
    batch: int  # most requests in one run

    def __post_init__(self) -> None:
        self._mailbox = Mailbox(self.commands, self._admitted)
        self._running: list[_Entry] = []
        self._shares = Shares()
        self._faults = Faults(self.pipeline.release_memory, self._shrink)
        self._counters = Counters()

    @property
    def abilities(self) -> Abilities:
        return self.pipeline.abilities

    def run(self) -> None:
        while not self._mailbox.stopped:
            self.run_once()

    def run_once(self) -> None:
        """One run and its news, whatever happens in it. Raises DeviceLost."""
        try:
            self._mailbox.turn(self.device, self.pipeline.adapters, self._turn)
        finally:
            self._running = []
            self._report()

    def _turn(self) -> None:
        self._faults.run(self._schedule(), self._draw, self._mailbox.fail, lambda entry: entry.id)

    # schedule: who is next

    def _admitted(self, id: RequestId, request: ImageRequest) -> _Entry:
        self.pipeline.check(request)
        return _Entry(id, request, self._counters.tokens)

    def _schedule(self) -> list[_Entry]:
        """The most urgent, and those that are equal to it."""
        live, candidates = self._mailbox.live, self._mailbox.candidates(self._counters, self.device.clock()).values()
        self._shares.here(candidates)
        reasons = schedule(candidates, _ONE_AT_A_TIME, self._shares.served).reasons
        if not reasons:
            return []
        first, *others = (live[reason.id] for reason in reasons)
        equal = [first, *(entry for entry in others if entry.equal(first))]
        self._counters = replace(self._counters, decision=_explained(reasons, equal, self.batch))
        return equal[: self.batch]

    # run: the device

    def _draw(self, group: Sequence[_Entry]) -> None:
        here = self._mailbox.present(group)
        if not here:
            return
        self._running = here
        started = time.perf_counter()
        for entry in here:
            self._mailbox.tell(entry.id, Admitted())
        self._report()
        try:
            pictures = self.pipeline.run([entry.request for entry in here], self._on_step(here))
        except _Nobody:
            return
        for entry, pixels in zip(here, pictures, strict=True):
            if entry.id in self._mailbox.live:
                self._finish(entry, pixels)
        self._count(here, time.perf_counter() - started)

    def _on_step(self, group: list[_Entry]) -> OnStep:
        def after_step(taken: int, look: Callable[[], list[Pixels]]) -> None:
            self.device.pass_on()
            self._mailbox.read(wait=False)
            if not self._mailbox.present(group):
                raise _Nobody
            shown: list[Pixels] | None = None
            for i, entry in enumerate(group):
                if entry.id not in self._mailbox.live:
                    continue
                steps = entry.request.own_steps
                self._mailbox.tell(entry.id, Progress(min(taken, steps), steps))
                if taken in entry.request.preview_steps:
                    shown = look() if shown is None else shown
                    self._mailbox.tell(entry.id, Partial(entry.previewed, shown[i]))
                    entry.previewed += 1
            self._report()

        return after_step

    # update: what the callers get

    def _finish(self, entry: _Entry, pixels: Pixels) -> None:
        text = self.pipeline.text_tokens(entry.request)
        sha256 = hashlib.sha256(entry.request.prompt.encode()).hexdigest()
        self._mailbox.leave(entry, Finished(pixels, sha256, text, entry.tokens))

    def _shrink(self) -> None:
        self.batch = max(1, self.batch // 2)

    def _count(self, group: Sequence[_Entry], seconds: float) -> None:
        candidates = [entry.candidate() for entry in group]
        for c in candidates:
            self._shares.charge([c] * c.steps_left)
        before, cost = self._counters, sum(c.remaining for c in candidates)
        self._counters = replace(
            before,
            turns=before.turns + 1,
            request_steps=before.request_steps + sum(c.steps_left for c in candidates),
            tokens=before.tokens + cost,
            seconds=before.seconds + seconds,
            pace=seconds / cost,
        )

    def _report(self) -> None:
        live = self._mailbox.live
        self._counters = replace(
            self._counters,
            running=sum(entry.id in live for entry in self._running),
            remaining=sum(entry.candidate().remaining for entry in live.values()),
            out_of_memory=self._faults.out_of_memory,
            adapters=self.pipeline.adapters.loaded,
        )
        self._mailbox.report(self.publish, self._counters)


def _explained(reasons: Sequence[Reason], equal: Sequence[_Entry], batch: int) -> Decision:
    """The scheduler orders, equality and the batch's size choose: with each verdict as it came out."""
    step = tuple(entry.id for entry in equal[:batch])
    verdicts: dict[RequestId, Verdict] = {entry.id: "joins" if entry.id in step else "no slot" for entry in equal}
    verdicts[step[0]] = "leads"
    explained = tuple(replace(reason, verdict=verdicts.get(reason.id, "not equal")) for reason in reasons)
    return Decision(step, sum(c.tokens * c.rows for c in (entry.candidate() for entry in equal[:batch])), 0, explained)
