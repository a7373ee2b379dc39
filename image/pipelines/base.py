"""What the engine asks of a model that is driven step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from image.request import ImageRequest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised prompt."""

    ids: tuple[int, ...]
    sha256: str  # of the prompt's UTF-8 bytes, as they went into the model's template


@dataclass(frozen=True, slots=True)
class Schedule:
    """The noise levels of one request: `steps` timesteps and one sigma more, float32 on the CPU."""

    sigmas: torch.Tensor  # (steps + 1,), from 1 down to 0
    timesteps: torch.Tensor  # (steps,), as the transformer wants them


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of a transformer call."""

    latents: torch.Tensor  # (C, H, W) float32
    timestep: torch.Tensor  # () float32
    text: torch.Tensor  # (L, D)


@dataclass(frozen=True, slots=True)
class Pixels:
    """A finished picture: `rgb` holds height × width × 3 bytes."""

    width: int
    height: int
    rgb: bytes


class StepPipeline(Protocol):
    """A text-to-image model whose denoising steps the engine schedules.

    Every method is called from the engine's thread only. No method keeps state of a request.
    """

    model: str
    """The id that callers name."""

    max_side: int
    """Longest side the model has positions for, in pixels."""

    def tokenize(self, prompt: str) -> Tokens:
        """Raises InvalidRequest for a prompt longer than the text encoder takes."""

    def image_tokens(self, request: ImageRequest) -> int:
        """Patches of the image."""

    def row_tokens(self, request: ImageRequest, text_tokens: int) -> int:
        """Length of the request's row in a transformer call."""

    def encode(self, prompts: Sequence[Tokens]) -> list[torch.Tensor]:
        """One (L, D) embedding a prompt."""

    def noise(self, request: ImageRequest) -> torch.Tensor:
        """The (C, H, W) float32 starting latents, drawn on the CPU from the request's seed."""

    def schedule(self, request: ImageRequest) -> Schedule:
        """The request's own noise levels."""

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """One transformer call: dx/dsigma of each row, (C, H, W) float32. Shapes may differ."""

    def decode(self, latents: torch.Tensor) -> Pixels:
        """The picture that (C, H, W) latents stand for. Raises ValueError where it is not finite."""
