"""The bodies that callers send. A field that is not supported is an error that names it."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from core.errors import InvalidRequest
from core.wire.images import PicturesAsked
from image.encode import Format, Output
from image.pipelines.base import Abilities
from image.request import ImageRequest, Source, Standing
from image.settings import ImageSettings

QUALITY = {"auto": 1.0, "standard": 1.0, "medium": 1.0, "low": 0.5, "high": 2.0, "hd": 2.0, "xhigh": 3.0, "max": 4.0}
"""Share of the default steps that each quality takes, up to the most steps accepted."""

Quality = Literal["auto", "standard", "low", "medium", "high", "hd", "xhigh", "max"]
AdapterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]{0,63}$")]


_EXACTLY = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Body(BaseModel):
    model_config = _EXACTLY

    prompt: str = Field(min_length=1, max_length=32_000)
    negative_prompt: str | None = Field(None, max_length=32_000)
    steps: int | None = None
    seed: int | None = None
    guidance: float | None = None
    exact: bool | None = Field(None, description="Run with no other image beside it: the same bytes every time.")
    lora: AdapterName | None = Field(None, description="A loaded adapter to draw with.")
    prompt_in_metadata: bool | None = Field(None, description="Whether the picture's metadata holds the prompt.")


class ImagesBody(_Body, PicturesAsked):
    """What generations and edits have in common: OpenAI's fields; seed, steps, guidance and the like besides."""

    model_config = _EXACTLY

    model: str | None = None
    quality: Quality | None = None
    background: Literal["auto", "opaque"] | None = None
    output_format: Format | None = None
    output_compression: int | None = Field(None, description="Quality of webp and jpeg; png loses nothing.")
    moderation: Literal["auto"] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None
    partial_images: int | None = None
    user: str | None = Field(None, max_length=512, description="For the caller's own records; changes nothing.")
    safety_identifier: str | None = Field(None, max_length=512, description="As user.")

    @property
    def output(self) -> Output:
        """Raises InvalidRequest where the format has no such setting."""
        format, compression = self.output_format or "png", self.output_compression
        if compression is None:
            return Output(format, 100 if format == "png" else 90)
        if not 0 <= compression <= 100:
            raise _invalid("output_compression", "output_compression must be from 0 to 100.")
        if format == "png" and compression != 100:
            raise _invalid("output_compression", "PNG loses nothing: output_compression is for webp and jpeg.")
        return Output(format, compression)

    def check_stream(self) -> None:
        if self.partial_images and not self.stream:
            raise _invalid("partial_images", "partial_images needs stream: true.", "needs_stream")
        if self.stream and self.response_format == "url":
            raise _invalid("response_format", "A stream carries b64_json only.")

    def requests(
        self,
        settings: ImageSettings,
        seed: int,
        standing: Standing,
        size: tuple[int, int],
        source: Source | None = None,
    ) -> list[ImageRequest]:
        """One request an image, checked; the seeds count up from `seed`. Raises InvalidRequest."""
        limits, n = settings.limits, self.count
        limits.check_count(n)
        self.check_stream()
        if self.negative_prompt and not _guidance(self, settings):
            raise _invalid("negative_prompt", "negative_prompt needs guidance above 0.", "needs_guidance")
        first = _request(self, settings, size, self._steps(settings), seed, standing)
        first = replace(first, source=source, partial_images=self.partial_images or 0)
        asked = [replace(first, seed=seed + i) for i in range(n)]
        for request in asked:
            limits.check(request)
        return asked

    def _steps(self, settings: ImageSettings) -> int:
        if self.steps is None:
            steps = max(1, round(settings.image_default_steps * QUALITY[self.quality or "auto"]))
            return min(steps, settings.image_max_steps)
        if self.quality not in (None, "auto"):
            raise _invalid("quality", "Give either steps or quality.", "conflicts_with_steps")
        return self.steps


class GenerationBody(ImagesBody):
    """POST /v1/images/generations"""


class EditBody(ImagesBody):
    """POST /v1/images/edits, the fields of its form besides the pictures."""

    strength: float | None = Field(None, description="How far from the picture: 0 stays, 1 starts from noise.")

    def strength_for(self, abilities: Abilities, *, masked: bool) -> float:
        """Inside a mask everything is painted anew unless asked otherwise."""
        if not abilities.strength:
            if self.strength is not None:
                message = "The model looks at pictures: it takes no strength."
                raise _invalid("strength", message, "unsupported_parameter")
            return 1.0
        if self.strength is None:
            return 1.0 if masked else 0.7
        if not 0 < self.strength <= 1:
            raise _invalid("strength", "strength must be above 0 and at most 1.")
        return self.strength


class AdapterBody(BaseModel):
    """POST /v1/images/adapters/{load,unload}. A name of the configured folder, never a path or an address."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    lora: AdapterName
    model: str | None = None


class WorkerBody(_Body):
    """POST /v1/{profile,chat/1to1,chat/shorts,chat/scenes}/generate."""

    width: int | None = None
    height: int | None = None

    def request(self, settings: ImageSettings, seed: int, standing: Standing) -> ImageRequest:
        width, height = settings.default_size
        steps = settings.image_default_steps if self.steps is None else self.steps
        size = (width if self.width is None else self.width, height if self.height is None else self.height)
        asked = _request(self, settings, size, steps, seed, standing)
        settings.limits.check(asked, size_params=("width", "height"))
        return asked


def _request(
    body: _Body, settings: ImageSettings, size: tuple[int, int], steps: int, seed: int, standing: Standing
) -> ImageRequest:
    return ImageRequest(
        prompt=body.prompt,
        width=size[0],
        height=size[1],
        steps=steps,
        seed=seed,
        guidance=_guidance(body, settings),
        negative_prompt=body.negative_prompt or "",
        exact=bool(body.exact),
        adapter=body.lora,
        standing=standing,
    )


def _guidance(body: _Body, settings: ImageSettings) -> float:
    return settings.image_default_guidance if body.guidance is None else body.guidance


def _invalid(param: str, message: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(message, param=param, code=code)
