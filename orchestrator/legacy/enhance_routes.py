"""POST /enhance and its kin: a prompt made fit for its model. The pure form of /enhance is told apart by `messages`."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from core.errors import InvalidRequest
from orchestrator.access.dependencies import metered, needs
from orchestrator.access.keys import Key, Keys
from orchestrator.access.quotas import Quotas
from orchestrator.legacy.chat_routes import PureRoute
from orchestrator.legacy.enhance.cache import DROPPED, MOST
from orchestrator.legacy.enhance.service import EnhanceService
from orchestrator.legacy.envelope import json_object, respond
from orchestrator.runs.caller import Caller, caller_of
from orchestrator.workers.registry import WorkerPool

SYSTEM = "soundstage"
Enhance = Callable[[dict[str, Any], Caller], Awaitable[BaseModel]]


def router(
    keys: Keys, quotas: Quotas, service: EnhanceService, pure_route: PureRoute, workers: WorkerPool
) -> APIRouter:
    api = APIRouter(tags=["enhancement"])
    chat_key = Annotated[Key, Depends(metered(keys, quotas, "chat"))]
    own_key = Annotated[Key, Depends(needs(keys, "chat"))]

    @api.post("/enhance")
    @api.post("/enhance/intelligent")
    async def intelligent(request: Request, key: chat_key) -> Response:
        """A prompt for the model of its job type: cached, fitted to its tokens, scored."""
        return await run(request, key, service.enhance)

    @api.post("/enhance/legacy")
    async def legacy(request: Request, key: chat_key) -> Response:
        """The same without cache, compression and score."""
        return await run(request, key, service.plain)

    async def run(request: Request, key: Key, enhance: Enhance) -> Response:
        body, caller = await request.body(), caller_of(request.scope, key)

        async def answer() -> BaseModel:
            given = json_object(body)
            if "messages" in given and caller.route == "/enhance":
                return await pure_route.answer("/enhance", body, caller)
            return await enhance(given, caller)

        return await respond(request, answer(), **_original(body))

    @api.get("/enhancement/info")
    async def info(_: own_key) -> dict[str, Any]:
        ready = any(worker.serves(None, "chat") for worker in workers.usable())
        return {
            "enhancement_system": SYSTEM,
            "supported_job_types": list(service.kinds),
            "job_types": {name: kind.model_dump(exclude={"name"}) for name, kind in service.kinds.items()},
            "cache_size": await service.enhancer.cache.size(),
            "cache_limits": {"most": MOST, "dropped_at_once": DROPPED},
            "model_status": "ready" if ready else "unavailable",
            "fallbacks": ["edge_function", "worker_fallback", "emergency_fallback"],
            "tokenizers": service.enhancer.counters.names,
        }

    @api.post("/enhancement/cache/clear")
    async def clear(key: own_key) -> dict[str, Any]:
        """Forget what was made for this key's tenant; for an admin's key, for all."""
        cleared = await service.enhancer.cache.clear(None if "admin" in key.scopes else key.tenant)
        return {"success": True, "cache_cleared": cleared, "cache_size": await service.enhancer.cache.size()}

    return api


def _original(body: bytes) -> dict[str, Any]:
    """What an error carries back: the prompt as it was sent, where one can be read."""
    try:
        prompt = json_object(body).get("prompt")
    except InvalidRequest:  # told by who reads the body in earnest
        return {}
    return {"enhanced_prompt": prompt} if isinstance(prompt, str) else {}
