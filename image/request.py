"""One image, as asked for: values that were checked once and are trusted from here on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NewType

from core.errors import InvalidRequest
from core.wire.images import size_of

if TYPE_CHECKING:
    from PIL.Image import Image

RequestId = NewType("RequestId", int)
"""The name of one image inside the engine; numbers are given in order of arrival."""

SIDE_MULTIPLE = 16  # a latent pixel is 8 image pixels wide and a patch is 2 latent pixels
MAX_SEED = 2**63 - 1


Priority = Literal["low", "normal", "high"]


@dataclass(frozen=True, slots=True)
class Pixels:
    """A picture: `rgb` holds height × width × 3 bytes."""

    width: int
    height: int
    rgb: bytes

    @classmethod
    def of(cls, image: "Image") -> "Pixels":
        return cls(image.width, image.height, image.tobytes())

    def image(self) -> "Image":
        from PIL import Image

        return Image.frombytes("RGB", (self.width, self.height), self.rgb)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Source:
    """What an edit starts from. A model that draws on from a picture gets one, of the request's size. One that looks at
    pictures gets them at sizes of their own, and takes all the steps."""

    pictures: tuple[Pixels, ...]
    strength: float = 1.0  # above 0, at most 1: the share of the steps that is taken
    mask: bytes | None = None  # height × width: 255 where the picture is painted anew, 0 where it stays


@dataclass(frozen=True, slots=True)
class Standing:
    """What the scheduler knows of a request besides its work."""

    tenant: str = ""
    priority: Priority = "normal"
    deadline: float | None = None  # reading of time.monotonic


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image. `n` images are `n` requests with seeds `seed`, `seed + 1`, …"""

    prompt: str
    width: int  # pixels
    height: int  # pixels
    steps: int
    seed: int
    guidance: float = 0.0  # above 0 switches classifier-free guidance on
    negative_prompt: str = ""  # used with guidance only
    partial_images: int = 0  # previews wanted on the way
    source: Source | None = None  # for an edit
    exact: bool = False  # every device call for it holds nothing else
    adapter: str | None = None  # the LoRA it is drawn with
    standing: Standing = Standing()

    @property
    def skipped_steps(self) -> int:
        """Steps that an edit does not take because it starts from a picture, not from noise."""
        return 0 if self.source is None else int(self.steps - min(self.steps * self.source.strength, self.steps))

    @property
    def own_steps(self) -> int:
        """Denoising steps this request takes."""
        return self.steps - self.skipped_steps

    @property
    def preview_steps(self) -> frozenset[int]:
        """After which of its own steps a preview is wanted: evenly spread, fewer where the steps are few."""
        wanted = self.partial_images
        return frozenset(self.own_steps * i // (wanted + 1) for i in range(1, wanted + 1)) - {0}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server accepts; sides in pixels."""

    min_side: int = 64
    max_side: int = 2048
    max_pixels: int = 2048 * 2048
    max_steps: int = 100
    max_guidance: float = 30.0
    max_images: int = 10
    max_partial_images: int = 3

    def check(self, request: ImageRequest, size_params: tuple[str, str] = ("size", "size")) -> None:
        """Raises InvalidRequest naming the first parameter that is out of range."""
        self.check_size(request.width, request.height, size_params)
        _within("steps", request.steps, 1, self.max_steps)
        _within("seed", request.seed, 0, MAX_SEED)
        _within("guidance", request.guidance, 0, self.max_guidance)
        _within("partial_images", request.partial_images, 0, self.max_partial_images)
        if request.source:
            _within("strength", request.source.strength, 0, 1)

    def check_count(self, n: int) -> None:
        _within("n", n, 1, self.max_images)

    def check_size(self, width: int, height: int, params: tuple[str, str] = ("size", "size")) -> None:
        for side, param in zip((width, height), params, strict=True):
            if side % SIDE_MULTIPLE:
                raise _bad_size(f"A side must be a multiple of {SIDE_MULTIPLE} pixels, not {side}.", param)
            if not self.min_side <= side <= self.max_side:
                raise _bad_size(f"A side must be from {self.min_side} to {self.max_side} pixels, not {side}.", param)
        if width * height > self.max_pixels:
            raise _bad_size(f"An image has at most {self.max_pixels} pixels, not {width * height}.", params[0])


def parse_size(size: str) -> tuple[int, int]:
    """`"WIDTHxHEIGHT"` in pixels as two integers. Raises InvalidRequest on anything else."""
    found = size_of(size)
    if found is None:
        raise _bad_size("size must be 'WIDTHxHEIGHT' in pixels.", "size")
    return found


def _bad_size(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_size")


def _within(param: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN too
        raise InvalidRequest(f"{param} must be from {low} to {high}, not {value}.", param=param, code="invalid_value")
