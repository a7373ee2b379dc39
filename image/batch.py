"""The requests in progress, and one step for a batch of them.

Request states are the only lasting truth: a batch is gathered anew for every step and forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import InvalidRequest
from image import canvas
from image.embeddings import Embeddings, Key
from image.pipelines.base import MaskedSource, Row, Schedule, StepPipeline, Tokens
from image.request import ImageRequest, RequestId
from image.scheduler import Candidate

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Denoising:
    """What a resident request keeps on the device."""

    latents: torch.Tensor  # (C, H, W) float32
    schedule: Schedule
    text: torch.Tensor  # (L, D)
    negative: torch.Tensor | None  # (L, D), with guidance only
    masked: MaskedSource | None = None  # with a mask only
    steps_taken: int = 0
    estimate: torch.Tensor | None = None  # of the finished latents, as of the last step


@dataclass(slots=True)
class RequestState:
    """The one mutable object of a request."""

    id: RequestId
    original: ImageRequest
    request: ImageRequest  # as it is drawn: the same, but on the model's canvas where it has one
    tokens: Tokens
    negative: Tokens | None  # with guidance only
    image_tokens: int
    row_tokens: int  # image and text, as long as the transformer makes them
    bytes: int  # device memory while resident
    arrived: int  # reading of the work clock
    denoising: Denoising | None = None
    previewed: int = 0

    @property
    def steps_taken(self) -> int:
        return self.denoising.steps_taken if self.denoising else 0

    @property
    def steps_left(self) -> int:
        return self.request.own_steps - self.steps_taken

    @property
    def text_tokens(self) -> int:
        """Of the prompt and, with guidance, the negative prompt."""
        return sum(len(t.ids) for t in self.texts)

    @property
    def texts(self) -> list[Tokens]:
        return [t for t in (self.tokens, self.negative) if t]

    def candidate(self, deadline: int | None = None) -> Candidate:
        """`deadline`: a reading of the work clock."""
        return Candidate(
            id=self.id,
            tokens=self.row_tokens,
            rows=2 if self.negative else 1,
            steps_left=self.steps_left,
            arrived=self.arrived,
            resident=self.denoising is not None,
            tenant=self.request.standing.tenant,
            priority=self.request.standing.priority,
            deadline=deadline,
            bytes=self.bytes,
            alone=self.request.exact,
            adapter=self.request.adapter,
        )


def admit(pipeline: StepPipeline, asked: ImageRequest, id: RequestId, arrived: int) -> RequestState:
    """The state of a request that has just arrived. Raises InvalidRequest for what the model cannot take."""
    request = asked if pipeline.canvas is None else canvas.onto(asked, pipeline.canvas)
    if max(request.width, request.height) > pipeline.max_side:
        raise InvalidRequest(
            f"The model draws at most {pipeline.max_side} pixels a side.", param="size", code="invalid_size"
        )
    pipeline.adapters.check(request.adapter)
    tokens = pipeline.tokenize(request.prompt)
    negative = pipeline.tokenize(request.negative_prompt) if request.guidance > 0 else None
    lengths = [len(t.ids) for t in (tokens, negative) if t]
    return RequestState(
        id=id,
        original=asked,
        request=request,
        tokens=tokens,
        negative=negative,
        image_tokens=pipeline.image_tokens(request),
        row_tokens=pipeline.row_tokens(request, max(lengths)),
        bytes=pipeline.state_bytes(request, sum(lengths)),
        arrived=arrived,
    )


def make_resident(pipeline: StepPipeline, states: Sequence[RequestState], cache: Embeddings) -> None:
    """Encode the texts that the cache lacks in one call, and lay out what each request starts from. A request that
    comes by itself gets embeddings that were computed by themselves: else its picture would depend on who was here
    before it."""
    single = len(states) == 1
    texts = _embeddings(pipeline, {_key(s, t, single): t for s in states for t in s.texts}, cache)
    ready = []
    for state in states:
        schedule = pipeline.schedule(state.request)
        start = pipeline.start(state.request, schedule)
        negative = texts[_key(state, state.negative, single)] if state.negative else None
        ready.append(
            Denoising(start.latents, schedule, texts[_key(state, state.tokens, single)], negative, start.masked)
        )
    for state, denoising in zip(states, ready, strict=True):
        state.denoising = denoising


def _key(state: RequestState, tokens: Tokens, single: bool) -> Key:
    return Key(tokens.ids, single or state.request.exact)


def _embeddings(pipeline: StepPipeline, wanted: Mapping[Key, Tokens], cache: Embeddings) -> dict[Key, torch.Tensor]:
    found = {key: kept for key in wanted if (kept := cache.get(key)) is not None}
    missing = [key for key in wanted if key not in found]
    for group in _encoder_calls(missing):
        for key, embedding in zip(group, pipeline.encode([wanted[key] for key in group]), strict=True):
            found[key] = embedding
            cache.put(Key(key.ids, alone=len(group) == 1), embedding)
    return found


def _encoder_calls(keys: Sequence[Key]) -> list[list[Key]]:
    """All together, but each of those that are to be computed alone."""
    together = [key for key in keys if not key.alone]
    return [*([together] if together else []), *([key] for key in keys if key.alone)]


def step(pipeline: StepPipeline, states: Sequence[RequestState]) -> list[bool]:
    """One transformer call for all, then each advances by its own sigma. Returns for each whether its latents are still
    finite. Changes no state if the call raises."""
    import torch

    pipeline.adapters.use(states[0].request.adapter)  # the scheduler mixes no adapters
    residents = [s.denoising for s in states if s.denoising]
    velocities = iter(pipeline.velocity([row for d in residents for row in _rows(d)]))
    advanced = []
    for state, d in zip(states, residents, strict=True):
        velocity = next(velocities)
        if d.negative is not None:
            velocity = velocity + state.request.guidance * (velocity - next(velocities))
        advanced.append(_advance(d, velocity))
    finite: list[bool] = torch.stack([latents.isfinite().all() for latents, _ in advanced]).tolist()
    for d, (latents, estimate) in zip(residents, advanced, strict=True):
        d.latents, d.estimate, d.steps_taken = latents, estimate, d.steps_taken + 1
    return finite


def _advance(d: Denoising, velocity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents one step on, and where they would end if the velocity stayed as it is."""
    sigma, sigma_next = d.schedule.sigmas[d.steps_taken], d.schedule.sigmas[d.steps_taken + 1]
    latents = d.latents + (sigma_next - sigma).item() * velocity
    estimate = latents - sigma_next.item() * velocity
    if d.masked is None:
        return latents, estimate
    masked, level = d.masked, sigma_next.item()
    source = level * masked.noise + (1.0 - level) * masked.source
    return (
        (1 - masked.anew) * source + masked.anew * latents,
        (1 - masked.anew) * masked.source + masked.anew * estimate,
    )


def _rows(d: Denoising) -> list[Row]:
    timestep = d.schedule.timesteps[d.steps_taken]
    texts = [d.text] if d.negative is None else [d.text, d.negative]
    return [Row(d.latents, timestep, text) for text in texts]
