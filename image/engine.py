"""The engine: one thread owns the device and repeats schedule → step → update.

Commands come in through a mailbox and take effect before the next step; news goes out once a turn.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from core.errors import SoundstageError, Unavailable, internal
from image import batch
from image.batch import RequestState
from image.events import Cancelled, Event, Failed, Finished, Partial, Progress
from image.pipelines.base import StepPipeline
from image.request import ImageRequest, RequestId
from image.scheduler import Budget, Decision, schedule

log = logging.getLogger(__name__)

_NEWEST = 0.1  # weight of the newest turn in the measured pace


@dataclass(frozen=True, slots=True)
class Submit:
    id: RequestId
    request: ImageRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    id: RequestId


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Command = Submit | Cancel | Stop


@dataclass(frozen=True, slots=True)
class Counters:
    """What the engine has done since it started, and what is before it."""

    running: int = 0  # requests resident on the device now
    remaining: int = 0  # tokens to compute for the requests that are here now
    turns: int = 0  # transformer calls
    request_steps: int = 0
    tokens: int = 0  # computed, padding included: the work clock
    padding: int = 0
    seconds: float = 0.0  # spent computing
    pace: float = 0.0  # seconds a token, smoothed
    decision: Decision | None = None  # the last one that chose a batch


@dataclass(frozen=True, slots=True)
class News:
    """What one turn has to tell."""

    events: tuple[tuple[RequestId, Event], ...]
    counters: Counters


class Engine:
    """Everything here runs on the engine's thread."""

    def __init__(
        self,
        pipeline: StepPipeline,
        budget: Budget,
        mail: queue.SimpleQueue[Command],
        publish: Callable[[News], object],
    ) -> None:
        self._pipeline = pipeline
        self._budget = budget
        self._mail = mail
        self._publish = publish
        self._live: dict[RequestId, RequestState] = {}
        self._events: list[tuple[RequestId, Event]] = []
        self._counters = Counters()
        self._stopped = False

    def run(self) -> None:
        """Turn until a Stop command has been read."""
        while not self._stopped:
            self.run_once()

    def run_once(self) -> None:
        """One turn and its news, whatever happens in it."""
        try:
            self._turn()
        except Exception:  # the outermost loop: these requests fail, the engine goes on
            log.exception("engine turn failed")
            for state in list(self._live.values()):
                self._fail(state, internal())
        self._report()

    def _turn(self) -> None:
        """One step for the batch that the scheduler chooses; waits for mail when nothing is here."""
        self._read_mail()
        started = time.perf_counter()
        decision = schedule((s.candidate() for s in self._live.values()), self._budget)
        chosen = [self._live[id] for id in decision.step]
        self._admit([s for s in chosen if s.denoising is None])
        self._step(chosen)
        self._update(chosen)
        self._count(decision, time.perf_counter() - started)

    # schedule: what is here

    def _read_mail(self) -> None:
        commands = [] if self._live else [self._mail.get()]
        while not self._mail.empty():  # only this thread takes mail out
            commands.append(self._mail.get_nowait())
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
            for state in list(self._live.values()):
                self._fail(state, Unavailable("The image worker is stopping.", retry_after=1))

    def _arrive(self, id: RequestId, request: ImageRequest) -> None:
        try:
            self._live[id] = batch.admit(self._pipeline, request, id, self._counters.tokens)
        except SoundstageError as exc:
            self._tell(id, Failed(exc))
        except Exception:  # a tokenizer's own error must not fail the others
            log.exception("request refused", extra={"image_request": id})
            self._tell(id, Failed(internal()))

    # step: the device

    def _admit(self, new: Sequence[RequestState]) -> None:
        if new:
            self._culprits_fail(new, lambda states: batch.make_resident(self._pipeline, states))
            self._report()  # now they run: not only after their first step

    def _step(self, chosen: Sequence[RequestState]) -> None:
        self._culprits_fail(self._alive(chosen), self._step_together)

    def _step_together(self, states: Sequence[RequestState]) -> None:
        for state, finite in zip(states, batch.step(self._pipeline, states), strict=True):
            if not finite:
                self._fail(state, SoundstageError("The image is not finite.", code="not_finite"))

    def _culprits_fail(self, states: Sequence[RequestState], act: Callable[[Sequence[RequestState]], None]) -> None:
        """Act on all together; if that raises, on each alone, so that only the culprits fail."""
        if not states:
            return
        try:
            act(states)
        except Exception as exc:  # whatever a model may raise
            if len(states) > 1:
                for state in states:
                    self._culprits_fail([state], act)
                return
            log.exception("image request failed", extra={"image_request": states[0].id})
            self._fail(states[0], exc if isinstance(exc, SoundstageError) else internal())

    # update: what the callers get

    def _update(self, chosen: Sequence[RequestState]) -> None:
        for state in self._alive(chosen):
            self._tell(state.id, Progress(state.steps_taken, state.request.steps))
            self._culprits_fail([state], self._show)

    def _show(self, states: Sequence[RequestState]) -> None:
        for state in states:
            if not state.steps_left:
                self._finish(state)
            elif pixels := batch.preview(self._pipeline, state):
                self._tell(state.id, Partial(state.previewed, pixels))
                state.previewed += 1

    def _finish(self, state: RequestState) -> None:
        pixels = batch.finish(self._pipeline, state)
        del self._live[state.id]
        self._tell(
            state.id,
            Finished(pixels, state.tokens.sha256, state.text_tokens, state.image_tokens),
        )

    def _fail(self, state: RequestState, error: SoundstageError) -> None:
        del self._live[state.id]
        self._tell(state.id, Failed(error))

    def _alive(self, states: Sequence[RequestState]) -> list[RequestState]:
        return [s for s in states if s.id in self._live]

    def _tell(self, id: RequestId, event: Event) -> None:
        self._events.append((id, event))

    def _count(self, decision: Decision, seconds: float) -> None:
        if not decision.step:
            return
        before, pace = self._counters, seconds / decision.cost
        self._counters = replace(
            before,
            turns=before.turns + 1,
            request_steps=before.request_steps + len(decision.step),
            tokens=before.tokens + decision.cost,
            padding=before.padding + decision.padding,
            seconds=before.seconds + seconds,
            pace=before.pace + _NEWEST * (pace - before.pace) if before.turns else pace,
            decision=decision,
        )

    def _report(self) -> None:
        candidates = [s.candidate() for s in self._live.values()]
        self._counters = replace(
            self._counters,
            running=sum(c.resident for c in candidates),
            remaining=sum(c.remaining for c in candidates),
        )
        events, self._events = tuple(self._events), []
        self._publish(News(events, self._counters))
