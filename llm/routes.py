"""The chat worker's own routes: what it says of itself, and the hand on the switch of its models."""

from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict

from core.errors import NotFound, Unprocessable
from core.parsing import body_schema, parse
from llm.engine import Engine
from llm.self_report import SelfReport
from llm.supervisor import Supervisor

Which = Literal["instruct", "base", "all"]


class UnloadRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    which: Which


class LoadRequest(UnloadRequest):
    """Without `force` a load that does not fit is refused; with it the least recently used models give way."""

    force: bool = False


def add_own_routes(api: FastAPI, report: SelfReport, supervisor: Supervisor) -> None:
    reports = {
        "/health": report.health,
        "/worker/info": report.worker_info,
        "/v1/models": report.models,
        "/memory/status": report.memory,
        "/model/info": report.model_info,
        "/debug/model": report.debug,
    }
    for path, answer in reports.items():
        api.get(path)(answer)
    api.get("/v1/models/{name:path}")(report.model)

    @api.post("/memory/load", openapi_extra=body_schema(LoadRequest.model_json_schema()))
    async def load(request: Request) -> dict[str, Any]:
        """What is loaded when it is done; 409 with the figures where it does not fit."""
        wanted = parse(LoadRequest, await request.body(), Unprocessable)
        for engine in _engines(supervisor, wanted.which):
            await supervisor.residency.load(engine, force=wanted.force)
        return {"success": True, **await report.memory()}

    @api.post("/memory/unload", openapi_extra=body_schema(UnloadRequest.model_json_schema()))
    async def unload(request: Request) -> dict[str, Any]:
        """What is loaded when it is done: the engine sleeps where it can, else it has stopped."""
        wanted = parse(UnloadRequest, await request.body(), Unprocessable)
        for engine in _engines(supervisor, wanted.which):
            await supervisor.residency.unload(engine)
        return {"success": True, **await report.memory()}


def _engines(supervisor: Supervisor, which: Which) -> list[Engine]:
    """Raises NotFound where this worker has no such model."""
    if which == "all":
        return list(supervisor.engines)
    engine = supervisor.of_role(which)
    if engine is None:
        raise NotFound(f"This worker has no {which} model.", param="which", code="model_not_found")
    return [engine]
