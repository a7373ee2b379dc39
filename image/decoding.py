"""Latents that wait to become pictures: decoded in groups of one shape, a bounded group a turn.

A turn takes one group, so that decoding never holds up steps for longer than one group takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from image.batch import RequestState

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Waiting:
    """`latents` as of one step; a preview has its index."""

    state: RequestState
    latents: torch.Tensor  # (C, H, W)
    preview: int | None

    @property
    def pixels(self) -> int:
        return self.state.request.width * self.state.request.height


class Decodings:
    """First come, first served; equal neighbours ride along. A request's own pictures keep their order."""

    def __init__(self, pixels: int) -> None:
        """`pixels`: most in one group; a single larger picture goes alone."""
        self._pixels = pixels
        self._waiting: list[Waiting] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def collect(self, states: Iterable[RequestState]) -> None:
        """Those that have just stepped: what is finished, and what is to be shown on the way."""
        for state in states:
            d = state.denoising
            if d is None or d.estimate is None:
                continue
            if not state.steps_left:
                self._waiting.append(Waiting(state, d.latents, None))
            elif d.steps_taken in state.request.preview_steps:
                self._waiting.append(Waiting(state, d.estimate, state.previewed))
                state.previewed += 1

    def next_group(self, live: Iterable[RequestState]) -> list[Waiting]:
        """Taken out of the queue; what belongs to requests that are gone is dropped."""
        here = {id(state) for state in live}
        self._waiting = [w for w in self._waiting if id(w.state) in here]
        group: list[Waiting] = []
        passed_over: set[int] = set()
        for waiting in self._waiting:
            if id(waiting.state) not in passed_over and _fits(waiting, group, self._pixels):
                group.append(waiting)
            else:
                passed_over.add(id(waiting.state))
        taken = {id(w) for w in group}
        self._waiting = [w for w in self._waiting if id(w) not in taken]
        return group


def _fits(waiting: Waiting, group: list[Waiting], pixels: int) -> bool:
    if not group:
        return True
    first = group[0]
    return (
        waiting.latents.shape == first.latents.shape
        and (waiting.preview is None) == (first.preview is None)
        and not (waiting.state.request.exact or first.state.request.exact)
        and sum(w.pixels for w in group) + waiting.pixels <= pixels
    )
