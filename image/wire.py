"""The bodies that callers send. A field that is not supported is an error that names it."""

from dataclasses import replace
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import InvalidRequest
from core.service import from_validation
from image.request import ImageRequest, parse_size
from image.settings import ImageSettings

QUALITY = {"auto": 1.0, "standard": 1.0, "medium": 1.0, "low": 0.5, "high": 2.0, "hd": 2.0}
"""Share of the default steps that each quality takes."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    prompt: str = Field(min_length=1, max_length=32_000)
    negative_prompt: str | None = Field(None, max_length=32_000)
    steps: int | None = None
    seed: int | None = None
    guidance: float | None = None


class GenerationBody(_Body):
    """POST /v1/images/generations: OpenAI's fields; seed, steps, guidance and negative_prompt besides."""

    model: str | None = None
    n: int | None = None
    size: str | None = None
    quality: Literal["auto", "standard", "low", "medium", "high", "hd"] | None = None
    background: Literal["auto", "opaque"] | None = None
    output_format: Literal["png"] | None = None
    output_compression: Literal[100] | None = Field(None, description="PNG loses nothing: 100 only.")
    moderation: Literal["auto"] | None = None
    response_format: Literal["b64_json"] | None = None
    stream: Literal[False] | None = None
    partial_images: Literal[0] | None = None
    user: str | None = Field(None, max_length=512, description="For the caller's own records; changes nothing.")
    safety_identifier: str | None = Field(None, max_length=512, description="As user.")

    def requests(self, settings: ImageSettings, seed: int) -> list[ImageRequest]:
        """One request an image, checked; the seeds count up from `seed`. Raises InvalidRequest."""
        limits, n = settings.limits, 1 if self.n is None else self.n
        limits.check_count(n)
        auto = self.size in (None, "auto")
        width, height = settings.default_size if auto else parse_size(self.size or "")
        if self.negative_prompt and not _guidance(self, settings):
            raise InvalidRequest(
                "negative_prompt needs guidance above 0.", param="negative_prompt", code="needs_guidance"
            )
        first = _request(self, settings, width, height, self._steps(settings), seed)
        asked = [replace(first, seed=seed + i) for i in range(n)]
        for request in asked:
            limits.check(request)
        return asked

    def _steps(self, settings: ImageSettings) -> int:
        if self.steps is None:
            return max(1, round(settings.image_default_steps * QUALITY[self.quality or "auto"]))
        if self.quality not in (None, "auto"):
            raise InvalidRequest("Give either steps or quality.", param="quality", code="conflicts_with_steps")
        return self.steps


class WorkerBody(_Body):
    """POST /v1/{profile,chat/1to1,chat/shorts,chat/scenes}/generate."""

    width: int | None = None
    height: int | None = None

    def request(self, settings: ImageSettings, seed: int) -> ImageRequest:
        width, height = settings.default_size
        steps = settings.image_default_steps if self.steps is None else self.steps
        asked = _request(
            self,
            settings,
            width if self.width is None else self.width,
            height if self.height is None else self.height,
            steps,
            seed,
        )
        settings.limits.check(asked, size_params=("width", "height"))
        return asked


Body = TypeVar("Body", bound=_Body)


def parse(kind: type[Body], body: bytes) -> Body:
    """Raises InvalidRequest with the field's name as `param`."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        raise from_validation(exc.errors()) from exc


def _request(body: _Body, settings: ImageSettings, width: int, height: int, steps: int, seed: int) -> ImageRequest:
    return ImageRequest(
        prompt=body.prompt,
        width=width,
        height=height,
        steps=steps,
        seed=seed,
        guidance=_guidance(body, settings),
        negative_prompt=body.negative_prompt or "",
    )


def _guidance(body: _Body, settings: ImageSettings) -> float:
    return settings.image_default_guidance if body.guidance is None else body.guidance
