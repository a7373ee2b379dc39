"""The engine: one thread owns the device and repeats schedule → step → update.

Commands come in through a mailbox and take effect before the next step; news goes out once a turn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from core.errors import SoundstageError
from image import batch, canvas
from image.batch import RequestState
from image.decoding import Decodings, Waiting
from image.device import Device
from image.embeddings import Embeddings
from image.events import Admitted, Finished, Partial, Progress
from image.fair_shares import Shares
from image.faults import Faults, not_finite
from image.mailbox import Mailbox
from image.messages import CommandQueue, Counters, Publish
from image.pipelines.base import Abilities, StepPipeline
from image.request import ImageRequest, RequestId
from image.scheduler import Budget, Candidate, schedule

log = logging.getLogger(__name__)

Act = Callable[[Sequence[RequestState]], None]

_NEWEST = 0.1  # weight of the newest turn in the measured pace


@dataclass(frozen=True)
class Sizing:
    """What one engine may use; measured or configured."""

    budget: Budget
    embedding_bytes: int = 256 << 20  # kept prompt embeddings
    admissions: int = 8  # most requests that become resident in one turn
    decoded_pixels: int = 2 << 20  # most decoded together
    reserved_bytes: int = 0  # memory that a step needs beside the requests' states


@dataclass
class Engine:
    """Everything here runs on the engine's thread."""

    pipeline: StepPipeline
    sizing: Sizing
    commands: CommandQueue
    publish: Publish
    device: Device = field(default_factory=Device)

    def __post_init__(self) -> None:
        self._budget = self.sizing.budget
        self._mailbox = Mailbox(self.commands, self._admitted)
        self._shares = Shares()
        self._embeddings = Embeddings(self.sizing.embedding_bytes)
        self._decodings = Decodings(self.sizing.decoded_pixels)
        self._faults = Faults(self._free_memory, self._shrink)
        self._counters = Counters()

    @property
    def abilities(self) -> Abilities:
        return self.pipeline.abilities

    def run(self) -> None:
        """Turn until a Stop command has been read."""
        while not self._mailbox.stopped:
            self.run_once()

    def run_once(self) -> None:
        """One turn and its news, whatever happens in it. Raises DeviceLost."""
        try:
            self._mailbox.turn(self.device, self.pipeline.adapters, self._turn)
        finally:
            self._report()

    def _turn(self) -> None:
        """One step for the batch that the scheduler chooses, and one group of pictures."""
        started = time.perf_counter()
        candidates = self._mailbox.candidates(self._counters, self.device.clock())
        self._shares.here(candidates.values())
        decision = schedule(candidates.values(), self._measured(candidates.values()), self._shares.served)
        if decision.step:
            self._counters = replace(self._counters, decision=decision)  # told before the step, which may be long
        chosen = self._admit([self._mailbox.live[id] for id in decision.step])
        self._step(chosen)
        self._update(chosen)
        stepped = [candidates[s.id] for s in chosen]
        self._shares.charge(stepped)
        self._count(stepped, time.perf_counter() - started)

    # schedule: what is here

    def _admitted(self, id: RequestId, request: ImageRequest) -> RequestState:
        return batch.admit(self.pipeline, request, id, self._counters.tokens)

    def _measured(self, candidates: Iterable[Candidate]) -> Budget:
        """Memory is asked for only when somebody wants to come in."""
        if all(c.resident for c in candidates):
            return self._budget
        return replace(self._budget, bytes=self.pipeline.free_bytes() - self.sizing.reserved_bytes)

    # step: the device

    def _admit(self, chosen: Sequence[RequestState]) -> list[RequestState]:
        """Those that can step now: encoding many prompts at once must not hold up the rest."""
        new = [s for s in chosen if s.denoising is None]
        entering = new[: self.sizing.admissions]
        if entering:
            self._run(entering, lambda states: batch.make_resident(self.pipeline, states, self._embeddings))
            for state in self._mailbox.present(entering):
                self._mailbox.tell(state.id, Admitted())
            self._report()  # now they run: not only after their first step
        return [s for s in self._mailbox.present(chosen) if s.denoising is not None]

    def _step(self, chosen: Sequence[RequestState]) -> None:
        self._run(chosen, self._step_together)

    def _step_together(self, states: Sequence[RequestState]) -> None:
        for state, finite in zip(states, batch.step(self.pipeline, states), strict=True):
            if not finite:
                self._mailbox.fail(state, not_finite())

    def _run(self, states: Sequence[RequestState], act: Act) -> None:
        self._faults.run(states, act, self._mailbox.fail, lambda state: state.id)

    def _free_memory(self) -> None:
        self._embeddings.clear()
        self.pipeline.release_memory()

    def _shrink(self) -> None:
        self._budget = replace(self._budget, tokens=max(1, self._budget.tokens // 2))
        log.warning("smaller steps from here on", extra={"tokens": self._budget.tokens})

    # update: what the callers get

    def _update(self, chosen: Sequence[RequestState]) -> None:
        stepped = self._mailbox.present(chosen)
        for state in stepped:
            self._mailbox.tell(state.id, Progress(state.steps_taken, state.request.own_steps))
        self._decodings.collect(stepped)
        group = self._decodings.next_group(self._mailbox.live.values())
        self._faults.run(group, self._show, self._fail_picture, lambda waiting: waiting.state.id)

    def _show(self, group: Sequence[Waiting]) -> None:
        latents = [waiting.latents for waiting in group]
        final = group[0].preview is None
        pictures = self.pipeline.decode(latents) if final else self.pipeline.preview(latents)
        for waiting, drawn in zip(group, pictures, strict=True):
            state = waiting.state
            pixels = drawn if state.original is state.request else canvas.back(drawn, state.original)
            if waiting.preview is not None:
                self._mailbox.tell(state.id, Partial(waiting.preview, pixels))
                continue
            self._mailbox.leave(state, Finished(pixels, state.tokens.sha256, state.text_tokens, state.image_tokens))

    def _fail_picture(self, waiting: Waiting, error: SoundstageError) -> None:
        self._mailbox.fail(waiting.state, error)

    def _count(self, stepped: Sequence[Candidate], seconds: float) -> None:
        if not stepped:
            return
        # What was scheduled, less what could not come in.
        cost = sum(c.rows for c in stepped) * max(c.tokens for c in stepped)
        before, pace = self._counters, seconds / cost
        self._counters = replace(
            before,
            turns=before.turns + 1,
            request_steps=before.request_steps + len(stepped),
            tokens=before.tokens + cost,
            padding=before.padding + cost - sum(c.rows * c.tokens for c in stepped),
            seconds=before.seconds + seconds,
            pace=before.pace + _NEWEST * (pace - before.pace) if before.turns else pace,
        )

    def _report(self) -> None:
        candidates = [s.candidate() for s in self._mailbox.live.values()]
        self._counters = replace(
            self._counters,
            running=sum(c.resident for c in candidates),
            remaining=sum(c.remaining for c in candidates),
            out_of_memory=self._faults.out_of_memory,
            cached_bytes=self._embeddings.bytes,
            cache_hits=self._embeddings.hits,
            cache_misses=self._embeddings.misses,
            step_tokens=self._budget.tokens,
            adapters=self.pipeline.adapters.loaded,
        )
        self._mailbox.report(self.publish, self._counters)
