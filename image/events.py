"""What a request tells while it runs. The last event is Finished, Failed or Cancelled."""

from dataclasses import dataclass

from core.errors import SoundstageError
from image.request import Pixels


@dataclass(frozen=True, slots=True)
class Admitted:
    """Its prompt is encoded, and its latents are on the device."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A step was taken."""

    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Partial:
    """A preview, from the running estimate of the finished image."""

    index: int
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Finished:
    """The image, and what exactly was run for it."""

    pixels: Pixels
    prompt_sha256: str  # of the UTF-8 bytes that went into the model's template
    text_tokens: int  # of the prompt and, with guidance, the negative prompt
    image_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    error: SoundstageError


@dataclass(frozen=True, slots=True)
class Cancelled:
    pass


Event = Admitted | Progress | Partial | Finished | Failed | Cancelled
LAST = (Finished, Failed, Cancelled)
