"""The pipelines' public routes: one for each of the table, and one for each step that stands alone."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from core.errors import UpstreamTimeout
from core.http.disconnect import until_disconnect
from orchestrator.access.dependencies import check_pictures, metered
from orchestrator.access.keys import Key, Keys
from orchestrator.access.quotas import Quotas
from orchestrator.pipelines.base import DrawingRequest, Pipeline, Plain, StepRoute, Studio
from orchestrator.pipelines.calls import RunService
from orchestrator.runs.caller import caller_of

T = TypeVar("T")


def router(
    keys: Keys, quotas: Quotas, studio: Studio, pipelines: Mapping[str, Pipeline], service: RunService, longest: float
) -> APIRouter:
    api = APIRouter(tags=["pipelines"])
    drawing_key = Annotated[Key, Depends(metered(keys, quotas, "pipelines", repeated=service.knows))]
    telling_key = Annotated[Key, Depends(metered(keys, quotas, "pipelines"))]
    for pipeline in pipelines.values():
        if not pipeline.form:
            _add(api, pipeline.path, pipeline.answer, _whole(pipeline, service, drawing_key), pipeline.about)
        for single in pipeline.singles:
            _add(api, single.path, single.answer, _single(single, studio, telling_key, longest), single.about)
    return api


def _add(api: APIRouter, path: str, answer: Any, route: Callable[..., Any], about: str) -> None:
    api.add_api_route(path, route, methods=["POST"], response_model=answer, description=about, name=path)


def _whole(pipeline: Pipeline, service: RunService, key_type: Any) -> Callable[..., Awaitable[Response]]:
    async def route(body: DrawingRequest, request: Request, key: Key) -> Response:
        await check_pictures(request, body.n)
        return await service.answer(request, pipeline.name, body, caller_of(request.scope, key))

    route.__annotations__ |= {"body": pipeline.request, "key": key_type}
    return route


def _single(single: StepRoute, studio: Studio, key_type: Any, longest: float) -> Callable[..., Awaitable[Plain]]:
    async def route(body: Any, request: Request, key: Key) -> Plain:
        return await while_caller_waits(request, single.run(studio, body, caller_of(request.scope, key)), longest)

    route.__annotations__ |= {"body": single.request, "key": key_type}
    return route


async def while_caller_waits(request: Request, work: Awaitable[T], longest: float) -> T:
    """Work while its caller waits: it ends when the caller leaves, or after `longest` seconds."""
    try:
        with until_disconnect(request.receive):
            async with asyncio.timeout(longest):
                return await work
    except TimeoutError:
        raise UpstreamTimeout(f"The pipeline took longer than {longest:g} s.", code="pipeline_timeout") from None
