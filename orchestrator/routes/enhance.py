"""POST /enhance and its kin: a prompt made fit for its model. The pure form of /enhance is told apart by `messages`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from core.errors import InvalidRequest, Unprocessable
from orchestrator.auth import Key, Keys
from orchestrator.enhance import job_types
from orchestrator.enhance.cache import DROPPED, MOST
from orchestrator.enhance.enhancer import Enhancer, Wish, asking
from orchestrator.enhance.job_types import JobType
from orchestrator.oversight import Caller, caller_of
from orchestrator.routes.access import needs
from orchestrator.routes.chat import PureRoute
from orchestrator.routes.legacy import answered, decoded, parsed
from orchestrator.workers import WorkerPool

SYSTEM = "soundstage"
OPTIMIZATIONS = {"sdxl": "sdxl_optimizations", "wan": "wan_optimizations"}


class EnhanceRequest(BaseModel):
    """`system_prompt` is the caller's own; without one the recipe of the job type is used."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    job_type: str
    quality: Literal["fast", "high"] = "fast"
    enhancement_type: str = Field("manual", max_length=100)
    system_prompt: str | None = Field(None, min_length=1, max_length=16_000)
    context: str | None = Field(None, min_length=1, max_length=2000)


class PlainAnswer(BaseModel):
    success: Literal[True] = True
    original_prompt: str
    enhanced_prompt: str
    generation_time: float
    enhancement_type: str
    job_type: str
    quality: str
    enhancement_source: Literal["edge_function", "worker_fallback", "emergency_fallback"]


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


def router(
    keys: Keys, enhancer: Enhancer, kinds: Mapping[str, JobType], pure_route: PureRoute, workers: WorkerPool
) -> APIRouter:
    api = APIRouter(tags=["enhancement"])
    chat_key = Annotated[Key, Depends(needs(keys, "chat"))]

    def wish_of(given: dict[str, Any]) -> tuple[EnhanceRequest, Wish]:
        asked = parsed(EnhanceRequest, given)
        job = job_types.find(kinds, asked.job_type)
        if len(asked.prompt) > job.max_prompt:
            raise Unprocessable(
                f"prompt: at most {job.max_prompt} characters for {job.name}.", param="prompt", code="prompt_too_long"
            )
        return asked, Wish(asked.prompt, job, asked.quality, asked.system_prompt, asked.context)

    async def enhance(body: bytes, caller: Caller) -> BaseModel:
        given = decoded(body)
        if "messages" in given and caller.route == "/enhance":
            return await pure_route.answer("/enhance", body, caller)
        asked, wish = wish_of(given)
        made = await enhancer.enhance(wish, asking(caller, wish.job))
        checks = {f"has_{name}": found for name, found in made.found.items()}
        named = OPTIMIZATIONS.get(wish.job.family)
        own: dict[str, Any] = {named: {**checks, "token_count": made.tokens}} if named else {}
        return EnhanceAnswer(
            **_plain(asked, made.text, made.source, made.seconds),
            cache_hit=made.cache_hit,
            worker_optimizations=Optimizations(caching=True, post_processing=True, fallback_ready=True),
            quality_score=made.score,
            **own,
        )

    async def plain(body: bytes, caller: Caller) -> BaseModel:
        asked, wish = wish_of(decoded(body))
        text, source, seconds = await enhancer.plain(wish, asking(caller, wish.job))
        return PlainAnswer(**_plain(asked, text, source, seconds))

    @api.post("/enhance")
    @api.post("/enhance/intelligent")
    async def intelligent(request: Request, key: chat_key) -> Response:
        """A prompt for the model of its job type: cached, fitted to its tokens, scored."""
        body = await request.body()
        return await answered(request, enhance(body, caller_of(request.scope, key)), **_original(body))

    @api.post("/enhance/legacy")
    async def legacy(request: Request, key: chat_key) -> Response:
        """The same without cache, compression and score."""
        body = await request.body()
        return await answered(request, plain(body, caller_of(request.scope, key)), **_original(body))

    @api.get("/enhancement/info")
    async def info(_: chat_key) -> dict[str, Any]:
        ready = any(worker.serves(None, "chat") for worker in workers.usable())
        return {
            "enhancement_system": SYSTEM,
            "supported_job_types": list(kinds),
            "job_types": {name: kind.model_dump(exclude={"name"}) for name, kind in kinds.items()},
            "cache_size": await enhancer.cache.size(),
            "cache_limits": {"most": MOST, "dropped_at_once": DROPPED},
            "model_status": "ready" if ready else "unavailable",
            "fallbacks": ["edge_function", "worker_fallback", "emergency_fallback"],
            "tokenizers": enhancer.counters.names,
        }

    @api.post("/enhancement/cache/clear")
    async def clear(key: chat_key) -> dict[str, Any]:
        """Forget what was made for this key's tenant; for an admin's key, for all."""
        cleared = await enhancer.cache.clear(None if "admin" in key.scopes else key.tenant)
        return {"success": True, "cache_cleared": cleared, "cache_size": await enhancer.cache.size()}

    return api


def _plain(asked: EnhanceRequest, text: str, source: str, seconds: float) -> dict[str, Any]:
    return {
        "original_prompt": asked.prompt,
        "enhanced_prompt": text,
        "generation_time": round(seconds, 4),
        "enhancement_type": asked.enhancement_type,
        "job_type": asked.job_type,
        "quality": asked.quality,
        "enhancement_source": source,
    }


def _original(body: bytes) -> dict[str, Any]:
    """What an error carries back: the prompt as it was sent, where one can be read."""
    try:
        prompt = decoded(body).get("prompt")
    except InvalidRequest:  # told by who reads the body in earnest
        return {}
    return {"enhanced_prompt": prompt} if isinstance(prompt, str) else {}
