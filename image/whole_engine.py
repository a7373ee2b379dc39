"""The engine for pipelines that run whole requests: schedule → run → update, with a look at the mail every step."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from core.errors import SoundstageError, Unavailable, UpstreamTimeout, internal
from image.device import Device
from image.events import Admitted, Cancelled, Event, Failed, Finished, Partial, Progress
from image.faults import Faults
from image.mail import Cancel, Command, Counters, Mail, News, Publish, Stop, Submit
from image.pipelines.base import Pixels
from image.request import ImageRequest, RequestId
from image.scheduler import Budget, Candidate, schedule
from image.shares import Shares

if TYPE_CHECKING:
    from image.pipelines.whole import OnStep, WholePipeline

log = logging.getLogger(__name__)

_ONE_AT_A_TIME = Budget(tokens=1, residents=1, padding=0)
_TOKEN_PIXELS = 256  # an image counts as many tokens as it would in Z-Image


class _Nobody(Exception):
    """Everybody in this run has left."""


@dataclass(slots=True)
class _Entry:
    id: RequestId
    request: ImageRequest
    arrived: int  # reading of the work clock
    told: int = 0  # previews
    previews: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        wanted, steps = self.request.partial_images, self.request.steps
        self.previews = frozenset(steps * i // (wanted + 1) for i in range(1, wanted + 1)) - {0}

    @property
    def tokens(self) -> int:
        return max(1, self.request.width * self.request.height // _TOKEN_PIXELS)

    def candidate(self) -> Candidate:
        standing = self.request.standing
        rows = 2 if self.request.guidance > 1 else 1
        return Candidate(
            self.id, self.tokens, rows, self.request.steps, self.arrived, False, standing.tenant, standing.priority
        )

    def equal(self, other: _Entry) -> bool:
        mine, theirs = self.request, other.request
        return not (mine.exact or theirs.exact) and all(
            getattr(mine, name) == getattr(theirs, name) for name in ("width", "height", "steps", "guidance")
        )


@dataclass
class WholeEngine:
    """Everything here runs on the engine's thread."""

    pipeline: WholePipeline
    mail: Mail
    publish: Publish
    device: Device
    batch: int  # most requests in one run

    def __post_init__(self) -> None:
        self._live: dict[RequestId, _Entry] = {}
        self._running: list[_Entry] = []
        self._shares = Shares()
        self._faults = Faults(self.pipeline.release_memory, self._shrink)
        self._events: list[tuple[RequestId, Event]] = []
        self._counters = Counters()
        self._stopped = False

    def run(self) -> None:
        while not self._stopped:
            self.run_once()

    def run_once(self) -> None:
        """One run and its news, whatever happens in it."""
        try:
            self._read_mail(wait=not self._live)
            with self.device.turn():
                self._faults.run(self._schedule(), self._draw, self._fail, lambda entry: entry.id)
        except Exception:  # the outermost loop: these requests fail, the engine goes on
            log.exception("engine run failed")
            for entry in list(self._live.values()):
                self._fail(entry, internal())
        self._running = []
        self._report()

    def _schedule(self) -> list[_Entry]:
        """The most urgent, and those that are equal to it."""
        self._expire()
        candidates = [entry.candidate() for entry in self._live.values()]
        self._shares.here(candidates)
        decision = schedule(candidates, _ONE_AT_A_TIME, self._shares.served)
        if not decision.step:
            return []
        self._counters = replace(self._counters, decision=decision)
        first = self._live[decision.step[0]]
        others = (self._live[reason.id] for reason in decision.reasons if reason.id != first.id)
        return [first, *(entry for entry in others if entry.equal(first))][: self.batch]

    def _draw(self, group: Sequence[_Entry]) -> None:
        here = [entry for entry in group if entry.id in self._live]
        if not here:
            return
        self._running = here
        started = time.perf_counter()
        for entry in here:
            self._tell(entry.id, Admitted())
        self._report()
        try:
            pictures = self.pipeline.run([entry.request for entry in here], self._on_step(here))
        except _Nobody:
            return
        for entry, pixels in zip(here, pictures, strict=True):
            if entry.id in self._live:
                self._finish(entry, pixels)
        self._count(here, time.perf_counter() - started)

    def _on_step(self, group: list[_Entry]) -> OnStep:
        def told(taken: int, look: Callable[[], list[Pixels]]) -> None:
            self.device.pass_on()
            self._read_mail(wait=False)
            if not any(entry.id in self._live for entry in group):
                raise _Nobody
            shown: list[Pixels] | None = None
            for i, entry in enumerate(group):
                if entry.id not in self._live:
                    continue
                self._tell(entry.id, Progress(min(taken, entry.request.steps), entry.request.steps))
                if taken in entry.previews and taken < entry.request.steps:
                    shown = look() if shown is None else shown
                    self._tell(entry.id, Partial(entry.told, shown[i]))
                    entry.told += 1
            self._report()

        return told

    def _read_mail(self, *, wait: bool) -> None:
        commands: list[Command] = [self.mail.get()] if wait else []
        while not self.mail.empty():  # only this thread takes mail out
            commands.append(self.mail.get_nowait())
        for command in commands:
            match command:
                case Submit(id, request):
                    self._arrive(id, request)
                case Cancel(id):
                    if self._live.pop(id, None):
                        self._tell(id, Cancelled())
                case Stop():
                    self._stopped = True
        if self._stopped:
            for entry in list(self._live.values()):
                self._fail(entry, Unavailable("The image worker is stopping.", retry_after=1))

    def _arrive(self, id: RequestId, request: ImageRequest) -> None:
        try:
            self.pipeline.check(request)
        except SoundstageError as exc:
            self._tell(id, Failed(exc))
            return
        self._live[id] = _Entry(id, request, self._counters.tokens)

    def _expire(self) -> None:
        now = self.device.clock()
        for entry in list(self._live.values()):
            deadline = entry.request.standing.deadline
            if deadline is not None and deadline <= now:
                self._fail(entry, UpstreamTimeout("The image's deadline has passed.", code="deadline_exceeded"))

    def _finish(self, entry: _Entry, pixels: Pixels) -> None:
        del self._live[entry.id]
        text = self.pipeline.text_tokens(entry.request)
        sha256 = hashlib.sha256(entry.request.prompt.encode()).hexdigest()
        self._tell(entry.id, Finished(pixels, sha256, text, entry.tokens))

    def _fail(self, entry: _Entry, error: SoundstageError) -> None:
        if self._live.pop(entry.id, None):
            self._tell(entry.id, Failed(error))

    def _tell(self, id: RequestId, event: Event) -> None:
        self._events.append((id, event))

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
        live = self._live
        self._counters = replace(
            self._counters,
            running=sum(entry.id in live for entry in self._running),
            remaining=sum(entry.candidate().remaining for entry in live.values()),
            out_of_memory=self._faults.out_of_memory,
        )
        events, self._events = tuple(self._events), []
        self.publish(News(events, self._counters))
