"""What the engine asks of a model that is driven step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from image.request import ImageRequest, Pixels

if TYPE_CHECKING:
    import torch

    from image.pipelines.adapters import Adapters


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised prompt."""

    ids: tuple[int, ...]
    sha256: str  # of the prompt's UTF-8 bytes, as they went into the model's template


@dataclass(frozen=True, slots=True)
class Schedule:
    """The noise levels of the steps a request takes, and one sigma more; float32 on the CPU."""

    sigmas: torch.Tensor  # (own_steps + 1,), down to 0; from 1 where nothing is skipped
    timesteps: torch.Tensor  # (own_steps,), as the transformer wants them


@dataclass(frozen=True, slots=True)
class MaskedSource:
    """The part of a source picture that a mask keeps: laid over the latents after every step."""

    source: torch.Tensor  # (C, H, W) float32, without noise
    noise: torch.Tensor  # (C, H, W) float32
    anew: torch.Tensor  # (1, H, W) float32: 1 where the picture is painted anew


@dataclass(frozen=True, slots=True)
class Start:
    """What a request starts from."""

    latents: torch.Tensor  # (C, H, W) float32
    masked: MaskedSource | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of a transformer call."""

    latents: torch.Tensor  # (C, H, W) float32
    timestep: torch.Tensor  # () float32
    text: torch.Tensor  # (L, D)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What callers may ask of a model besides drawing from text."""

    pictures: int  # most that an edit may start from; 0: no edits
    masks: bool
    strength: bool  # an edit starts between the picture and noise; without, pictures are only looked at


class NotFinite(ValueError):
    """A picture came out as NaN or infinity."""


class StepPipeline(Protocol):
    """A text-to-image model whose denoising steps the engine schedules. Every method is called from the engine's thread
    only. No method keeps state of a request."""

    model: str
    """The id that callers name."""

    max_side: int
    """Longest side the model has positions for, in pixels."""

    canvas: int | None
    """The side of the one square that it draws well, in pixels; None: it draws what is asked for."""

    abilities: Abilities

    adapters: Adapters

    @property
    def fingerprint(self) -> str:
        """What speed and memory depend on: model, device, number format, library."""

    def tokenize(self, prompt: str) -> Tokens:
        """Raises InvalidRequest for a prompt longer than the text encoder takes."""

    def image_tokens(self, request: ImageRequest) -> int:
        """Patches of the image."""

    def row_tokens(self, request: ImageRequest, text_tokens: int) -> int:
        """Length of the request's row in a transformer call."""

    def encode(self, prompts: Sequence[Tokens]) -> list[torch.Tensor]:
        """One (L, D) embedding a prompt."""

    def start(self, request: ImageRequest, schedule: Schedule) -> Start:
        """Noise drawn on the CPU from the request's seed; for an edit, mixed with its source."""

    def schedule(self, request: ImageRequest) -> Schedule:
        """The request's own noise levels."""

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """One transformer call: dx/dsigma of each row, (C, H, W) float32. Shapes may differ."""

    def decode(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        """The pictures of (C, H, W) latents of one shape. Raises NotFinite where one is not finite."""

    def preview(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        """As decode, but cheap and rough."""

    def state_bytes(self, request: ImageRequest, text_tokens: int) -> int:
        """Device memory that the request's state takes while it is resident."""

    def free_bytes(self) -> int:
        """Device memory that is free for more, as measured now."""

    def release_memory(self) -> None:
        """Give back what the device's allocator keeps for later."""

    def reset_peak(self) -> None:
        """Count the most memory in use from here on."""

    def peak_bytes(self) -> int:
        """The most in use since then beyond what is in use now; 0 where the device does not count."""
