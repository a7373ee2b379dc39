"""Enhancement as its callers ask for it and are answered: over HTTP and from a queue."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from core.errors import Unprocessable
from core.parsing import parse_object
from core.wire.text import Text
from orchestrator.legacy.enhance import job_types
from orchestrator.legacy.enhance.cache import Source
from orchestrator.legacy.enhance.enhancer import Enhancer, PromptTask, with_tier_of
from orchestrator.legacy.enhance.job_types import JobType
from orchestrator.legacy.enhance.phrases import tidy
from orchestrator.runs.caller import Caller

OPTIMIZATIONS = {"sdxl": "sdxl_optimizations", "wan": "wan_optimizations"}


def _says_something(prompt: str) -> str:
    if not tidy(prompt):
        raise PydanticCustomError("empty_prompt", "There is nothing in it but spaces and separators")
    return prompt


class EnhanceRequest(BaseModel):
    """`system_prompt` is the caller's own; without one the recipe of the job type is used."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[Text, AfterValidator(_says_something)] = Field(min_length=1)
    job_type: str
    quality: Literal["fast", "high"] = "fast"
    enhancement_type: str = Field("manual", max_length=100)
    system_prompt: Text | None = Field(None, min_length=1, max_length=16_000)
    context: Text | None = Field(None, min_length=1, max_length=2000)


class PlainAnswer(BaseModel):
    success: Literal[True] = True
    original_prompt: str
    enhanced_prompt: str
    generation_time: float
    enhancement_type: str
    job_type: str
    quality: str
    enhancement_source: Source


class Optimizations(BaseModel):
    """What the worker side of enhancement did."""

    caching: bool
    post_processing: bool
    fallback_ready: bool


class EnhanceAnswer(PlainAnswer):
    """`quality_score` is 0 to 1; the checks of the model's family stand under its own name, with `token_count`."""

    cache_hit: bool
    worker_optimizations: Optimizations
    quality_score: float
    sdxl_optimizations: dict[str, bool | int] | None = None
    wan_optimizations: dict[str, bool | int] | None = None


class EnhanceService:
    """Takes bodies of the older form. Raises Unprocessable, which names the field, and what enhancing raises."""

    def __init__(self, enhancer: Enhancer, kinds: Mapping[str, JobType]) -> None:
        self.enhancer, self.kinds = enhancer, kinds

    async def enhance(self, given: dict[str, Any], caller: Caller) -> EnhanceAnswer:
        body, task = self._task(given)
        made = await self.enhancer.enhance(task, with_tier_of(task.job, caller))
        checks = {f"has_{name}": passes for name, passes in made.checks.items()}
        name = OPTIMIZATIONS.get(task.job.family)
        own: dict[str, Any] = {name: {**checks, "token_count": made.tokens}} if name else {}
        return EnhanceAnswer(
            **_plain(body, made.text, made.source, made.seconds),
            cache_hit=made.cache_hit,
            worker_optimizations=Optimizations(caching=True, post_processing=True, fallback_ready=True),
            quality_score=made.score,
            **own,
        )

    async def plain(self, given: dict[str, Any], caller: Caller) -> PlainAnswer:
        """No cache, no compression, no score."""
        body, task = self._task(given)
        made, seconds = await self.enhancer.plain(task, with_tier_of(task.job, caller))
        return PlainAnswer(**_plain(body, made.text, made.source, seconds))

    def _task(self, given: dict[str, Any]) -> tuple[EnhanceRequest, PromptTask]:
        body = parse_object(EnhanceRequest, given, Unprocessable)
        job = job_types.find(self.kinds, body.job_type)
        if len(body.prompt) > job.max_prompt:
            raise Unprocessable(
                f"prompt: at most {job.max_prompt} characters for {job.name}.", param="prompt", code="prompt_too_long"
            )
        return body, PromptTask(body.prompt, job, body.quality, body.system_prompt, body.context)


def _plain(body: EnhanceRequest, text: str, source: Source, seconds: float) -> dict[str, Any]:
    return {
        "original_prompt": body.prompt,
        "enhanced_prompt": text,
        "generation_time": round(seconds, 4),
        "enhancement_source": source,
        **body.model_dump(include={"enhancement_type", "job_type", "quality"}),
    }
