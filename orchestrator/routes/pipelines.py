"""The pipelines' public routes."""

import asyncio
from collections.abc import Awaitable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Request

from core.disconnect import until_disconnect
from core.errors import UpstreamTimeout
from orchestrator.auth import Key, Keys
from orchestrator.oversight import caller_of
from orchestrator.pipelines import chat1to1
from orchestrator.pipelines.base import Studio
from orchestrator.quotas import Quotas
from orchestrator.routes.access import metered

T = TypeVar("T")


def router(keys: Keys, quotas: Quotas, studio: Studio, longest: float) -> APIRouter:
    api = APIRouter(tags=["pipelines"])
    pipelines_key = Annotated[Key, Depends(metered(keys, quotas, "pipelines", images=1))]

    @api.post("/v1/chat/1to1/imagegen")
    async def imagegen(body: chat1to1.ImageRequest, request: Request, key: pipelines_key) -> chat1to1.ImageAnswer:
        """A picture for a chat message, with a caption: expand → generate → caption."""
        work = chat1to1.imagegen(studio, body, caller_of(request.scope, key))
        return await attended(request, work, longest)

    return api


async def attended(request: Request, work: Awaitable[T], longest: float) -> T:
    """Run a pipeline while its caller waits: it ends when the caller leaves, or after `longest` seconds."""
    try:
        with until_disconnect(request.receive):
            async with asyncio.timeout(longest):
                return await work
    except TimeoutError:
        raise UpstreamTimeout(f"The pipeline took longer than {longest:g} s.", code="pipeline_timeout") from None
