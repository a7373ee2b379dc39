"""The requests in progress, and one step for a batch of them.

Request states are the only lasting truth: a batch is gathered anew for every step and forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.errors import InvalidRequest
from image.pipelines.base import Pixels, Row, Schedule, StepPipeline, Tokens
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
    taken: int = 0  # steps
    estimate: torch.Tensor | None = None  # of the finished latents, as of the last step


@dataclass(slots=True)
class RequestState:
    """The one mutable object of a request."""

    id: RequestId
    request: ImageRequest
    tokens: Tokens
    negative: Tokens | None  # with guidance only
    image_tokens: int
    row_tokens: int  # image and text, as long as the transformer makes them
    arrived: int  # reading of the work clock
    denoising: Denoising | None = None
    previews: frozenset[int] = field(init=False)  # steps after which a preview is wanted
    previewed: int = 0

    def __post_init__(self) -> None:
        wanted, steps = self.request.partial_images, self.request.steps
        marks = (steps * i // (wanted + 1) for i in range(1, wanted + 1))
        self.previews = frozenset(mark for mark in marks if mark > 0)

    @property
    def steps_taken(self) -> int:
        return self.denoising.taken if self.denoising else 0

    @property
    def steps_left(self) -> int:
        return self.request.steps - self.steps_taken

    @property
    def text_tokens(self) -> int:
        """Of the prompt and, with guidance, the negative prompt."""
        return len(self.tokens.ids) + (len(self.negative.ids) if self.negative else 0)

    def candidate(self) -> Candidate:
        return Candidate(
            id=self.id,
            tokens=self.row_tokens,
            rows=2 if self.negative else 1,
            steps_left=self.steps_left,
            arrived=self.arrived,
            resident=self.denoising is not None,
        )


def admit(pipeline: StepPipeline, request: ImageRequest, id: RequestId, arrived: int) -> RequestState:
    """The state of a request that has just arrived. Raises InvalidRequest for what the model cannot take."""
    if max(request.width, request.height) > pipeline.max_side:
        raise InvalidRequest(
            f"The model draws at most {pipeline.max_side} pixels a side.", param="size", code="invalid_size"
        )
    tokens = pipeline.tokenize(request.prompt)
    negative = pipeline.tokenize(request.negative_prompt) if request.guidance > 0 else None
    longest_text = max(len(t.ids) for t in (tokens, negative) if t)
    return RequestState(
        id,
        request,
        tokens,
        negative,
        pipeline.image_tokens(request),
        pipeline.row_tokens(request, longest_text),
        arrived,
    )


def make_resident(pipeline: StepPipeline, states: Sequence[RequestState]) -> None:
    """Encode the prompts of all in one call and draw each request's noise."""
    prompts = [t for s in states for t in (s.tokens, s.negative) if t]
    encoded = iter(pipeline.encode(prompts))
    ready = []
    for state in states:
        text = next(encoded)
        negative = next(encoded) if state.negative else None
        noise = pipeline.noise(state.request)
        ready.append(Denoising(noise, pipeline.schedule(state.request), text, negative))
    for state, denoising in zip(states, ready, strict=True):
        state.denoising = denoising


def step(pipeline: StepPipeline, states: Sequence[RequestState]) -> list[bool]:
    """One transformer call for all, then each advances by its own sigma.

    Returns for each whether its latents are still finite. Changes no state if the call raises.
    """
    import torch

    residents = [s.denoising for s in states if s.denoising]
    velocities = iter(pipeline.velocity([row for d in residents for row in _rows(d)]))
    advanced = []
    for state, d in zip(states, residents, strict=True):
        velocity = next(velocities)
        if d.negative is not None:
            velocity = velocity + state.request.guidance * (velocity - next(velocities))
        sigma, sigma_next = d.schedule.sigmas[d.taken], d.schedule.sigmas[d.taken + 1]
        latents = d.latents + (sigma_next - sigma).item() * velocity
        advanced.append((latents, latents - sigma_next.item() * velocity))
    finite: list[bool] = torch.stack([latents.isfinite().all() for latents, _ in advanced]).tolist()
    for d, (latents, estimate) in zip(residents, advanced, strict=True):
        d.latents, d.estimate, d.taken = latents, estimate, d.taken + 1
    return finite


def preview(pipeline: StepPipeline, state: RequestState) -> Pixels | None:
    """The running estimate as a picture, where one is wanted after the step just taken."""
    d = state.denoising
    if d is None or d.estimate is None or d.taken not in state.previews:
        return None
    return pipeline.decode(d.estimate)


def finish(pipeline: StepPipeline, state: RequestState) -> Pixels:
    """The finished picture of a request that has taken all its steps."""
    if state.denoising is None or state.steps_left:
        raise ValueError(f"request {state.id} has {state.steps_left} steps to go")
    return pipeline.decode(state.denoising.latents)


def _rows(d: Denoising) -> list[Row]:
    timestep = d.schedule.timesteps[d.taken]
    texts = [d.text] if d.negative is None else [d.text, d.negative]
    return [Row(d.latents, timestep, text) for text in texts]
