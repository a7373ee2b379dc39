"""What every pipeline is given: recipes that answer with text, image engines, a place for pictures, and who asks."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.errors import InvalidRequest
from core.settings import SettingsError
from orchestrator.engines.client import Engines
from orchestrator.operate.blobs import Blobs
from orchestrator.pipelines.flow import CallOptions, Flow
from orchestrator.pipelines.likenesses import Likenesses
from orchestrator.recipes.recipe import RecipeRunner
from orchestrator.runs.caller import Caller
from orchestrator.runs.record import Run

Plain = dict[str, Any]
"""Plain JSON; a picture in it is a blob reference."""

MOST_IMAGES = 4
SIZE = r"^[1-9]\d{1,3}x[1-9]\d{1,3}$"


@dataclass(frozen=True)
class Studio:
    """The means of a pipeline; one for each process."""

    recipes: RecipeRunner
    engines: Engines
    blobs: Blobs
    likenesses: Likenesses
    default_size: str


class DrawingRequest(CallOptions):
    """What the body of every pipeline that draws has beside its own fields."""

    size: str | None = Field(None, pattern=SIZE, description="WIDTHxHEIGHT in pixels.")
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="Of the first picture; the others count up.")
    n: int = Field(1, ge=1, le=MOST_IMAGES, description="Pictures, drawn side by side in one place at one worker.")
    partial_images: int | None = Field(
        None, ge=0, le=3, description="Previews of each picture, for who follows; unset: 1 in a stream, else none."
    )
    response_format: Literal["b64_json", "url"] = Field(
        "b64_json", description="Pictures as base64, or as links that work for a while."
    )

    @model_validator(mode="after")
    def _followed(self) -> "DrawingRequest":
        if self.partial_images and not (self.stream or self.background):
            raise InvalidRequest("partial_images needs stream: true.", param="partial_images", code="needs_stream")
        return self

    @property
    def previews(self) -> int:
        return int(self.stream) if self.partial_images is None else self.partial_images


class Turn(BaseModel):
    """One turn of the conversation so far."""

    model_config = ConfigDict(extra="forbid")

    role: str = Field(pattern="^(system|user|assistant)$")
    content: str = Field(max_length=8000)


class DrawingAnswer(BaseModel):
    """What every pipeline that draws answers. A picture is base64, or a link, under `image_url`, where that was asked
    for; `images` holds all of them where there are several."""

    image_base64: str | None = None
    image_url: str | None = None
    images: list[dict[str, Any]] | None = None
    prompt_used: str
    run_id: str
    model: str
    seed: int | None
    releases: list[str]
    policy: str
    constraints_added: str | None
    runs: list[str]


@dataclass(frozen=True)
class StepRoute:
    """One step of a pipeline as a route of its own: `run` gives its whole answer."""

    path: str
    about: str
    request: type[BaseModel]
    answer: type[BaseModel]
    run: Callable[[Studio, Any, Caller], Awaitable[Plain]]


@dataclass(frozen=True)
class Pipeline:
    """A pipeline as everything else sees it: read from its module by `of_module`."""

    name: str
    about: str
    path: str
    role: str | None
    request: type[DrawingRequest]
    answer: type[BaseModel]
    run: Callable[[Studio, Flow, Any, Caller], Awaitable[Plain]]
    singles: tuple[StepRoute, ...] = ()
    form: bool = False
    recipes: Path | None = None
    warm: tuple[str, ...] = ()


def of_module(module: ModuleType) -> Pipeline:
    """A module that is a pipeline says NAME, PATH, ROLE (the pool of image workers that draw for it, None: any of
    them), Request, Answer and `run`; and where it has them SINGLE (steps with routes of their own), RECIPES (the folder
    of its recipes), WARM (recipes that chat engines are made warm for) and FORM (its body is no JSON: it has a route of
    its own). Raises SettingsError for another."""
    try:
        return Pipeline(
            name=module.NAME,
            about=(module.__doc__ or "").strip(),
            path=module.PATH,
            role=module.ROLE,
            request=module.Request,
            answer=module.Answer,
            run=module.run,
            singles=getattr(module, "SINGLE", ()),
            form=getattr(module, "FORM", False),
            recipes=getattr(module, "RECIPES", None),
            warm=getattr(module, "WARM", ()),
        )
    except AttributeError as exc:
        raise SettingsError(f"{module.__name__} is no pipeline: {exc}") from exc


class StepRecord(TypedDict):
    """Which release a step's words are of, which tier and policy hold for it, and the run that proves it."""

    run: str
    recipe: str
    version: int
    release_sha256: str | None
    release_tier: int | None
    policy_version: int | None


def record_of(run: Run) -> StepRecord:
    return StepRecord(
        run=run.id,
        recipe=run.recipe or "",
        version=run.version or 0,
        release_sha256=run.release_sha256,
        release_tier=run.release_tier,
        policy_version=run.policy_version,
    )


def release(step: Mapping[str, Any]) -> str:
    """As `recipe@version`; empty where no release was used."""
    return f"{step['recipe']}@{step['version']}" if step["recipe"] else ""
