"""/memory/*, /model/info and /debug/model: what is loaded, what it takes, measured; and the hand on the switch."""

from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict

from core.errors import NotFound, Unprocessable
from core.parsing import parse
from llm import device
from llm.catalogue import Role
from llm.device import GB
from llm.engine import Engine
from llm.self_report import Counters, engine_of, is_ready, path_of, stats
from llm.settings import ChatWorkerSettings
from llm.supervisor import Supervisor
from llm.weights import Weights, weights

Which = Literal["instruct", "base", "all"]


class LoadRequest(BaseModel):
    """Without `force` a load that does not fit is refused; with it the least recently used models give way."""

    model_config = ConfigDict(extra="forbid")

    which: Which
    force: bool = False


class UnloadRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    which: Which


def add_memory_routes(api: FastAPI, settings: ChatWorkerSettings, supervisor: Supervisor, counters: Counters) -> None:
    sizes: dict[str, Weights | None] = {}

    def size_of(engine: Engine) -> Weights | None:
        """Read once: a checkpoint does not change while it is served."""
        if engine.model.id not in sizes and engine.checkpoint is not None:
            sizes[engine.model.id] = weights(engine.checkpoint)
        return sizes.get(engine.model.id)

    @api.get("/memory/status")
    async def status() -> dict[str, Any]:
        return await _status(supervisor)

    @api.post("/memory/load", openapi_extra=_body(LoadRequest))
    async def load(request: Request) -> dict[str, Any]:
        """What is loaded when it is done; 409 with the figures where it does not fit."""
        asked = parse(LoadRequest, await request.body(), Unprocessable)
        for engine in _engines(supervisor, asked.which):
            await supervisor.residency.load(engine, force=asked.force)
        return {"success": True, **await _status(supervisor)}

    @api.post("/memory/unload", openapi_extra=_body(UnloadRequest))
    async def unload(request: Request) -> dict[str, Any]:
        """What is loaded when it is done: the engine sleeps where it can, else it has stopped."""
        asked = parse(UnloadRequest, await request.body(), Unprocessable)
        for engine in _engines(supervisor, asked.which):
            await supervisor.residency.unload(engine)
        return {"success": True, **await _status(supervisor)}

    @api.get("/model/info")
    async def info() -> dict[str, Any]:
        """Of the engine that answers, else of the first: its checkpoint's size, and what it runs on."""
        engine = next((e for e in supervisor.engines if is_ready(e)), supervisor.engines[0])
        found, memory = size_of(engine), await device.memory()
        torch = device.torch_version(settings.vllm_python)
        cuda = torch.partition("+cu")[2] if torch and "+cu" in torch else None
        return {
            "model_loaded": is_ready(engine),
            "model_path": path_of(engine),
            "model_device": _device(engine, memory),
            "device_type": memory.kind,
            "model_parameters": found.parameters if found else None,
            "model_size_gb": round(found.size / GB, 4) if found else None,
            "is_eval_mode": True,  # an inference engine has no other
            "torch_version": torch,
            "cuda_available": memory.kind == "cuda",
            "cuda_version": cuda,
            "gpu_name": memory.name,
        }

    @api.get("/debug/model")
    async def debug() -> dict[str, Any]:
        memory = await device.memory()
        roles: tuple[Role, ...] = ("instruct", "base")
        by_role = {role: engine_of(supervisor, role) for role in roles}
        ready = next((e for e in supervisor.engines if is_ready(e)), None)
        return {
            "active_model_type": ready.model.role if ready else None,
            "instruct_loaded": is_ready(by_role["instruct"]),
            "base_loaded": is_ready(by_role["base"]),
            "paths": {role: path_of(engine) for role, engine in by_role.items()},
            "devices": {role: _device(engine, memory) for role, engine in by_role.items()},
            "stats": stats(supervisor, counters),
            "engines": {e.model.id: _detail(supervisor, e) for e in supervisor.engines},
        }


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    """For the docs page: what `parse` reads."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}


async def _status(supervisor: Supervisor) -> dict[str, Any]:
    """Figures in GB (2^30 bytes), from the device; from the host's memory and the engines' processes without one."""
    memory = await device.memory()
    groups = [engine.pid for engine in supervisor.engines if engine.pid is not None]
    held = await device.host_bytes(groups) if memory.kind == "cpu" else memory.total - memory.available
    instruct, base = engine_of(supervisor, "instruct"), engine_of(supervisor, "base")
    first = next((engine for engine in supervisor.engines if is_ready(engine)), None)
    lease = supervisor.residency.lease
    return {
        "total_vram": round(memory.total / GB, 3),
        "allocated_vram": round(held / GB, 3),
        "available_vram": round(memory.available / GB, 3),
        "model_loaded": first is not None,
        "instruct_loaded": is_ready(instruct),
        "base_loaded": is_ready(base),
        "instruct_device": _device(instruct, memory),
        "model_device": _device(first, memory),
        "device_type": memory.kind,
        "budget": round(supervisor.residency.budget / GB, 3),
        "device_lease": lease.told() if lease else None,
        "engines": {engine.model.id: _detail(supervisor, engine) for engine in supervisor.engines},
    }


def _detail(supervisor: Supervisor, engine: Engine) -> dict[str, Any]:
    """What one engine is doing; `reduced` where it was started with less after deaths for want of memory."""
    queue = supervisor.residency.queues[engine.model.id]
    reduced = {**engine.limits._asdict(), "deaths": engine.memory_deaths} if engine.memory_deaths else None
    return {
        "state": engine.state,
        "pinned": queue.pinned,
        "can_sleep": engine.can_sleep,
        "requests": queue.in_flight,
        "waiting": len(queue.waiters),
        "needs_gb": round(supervisor.residency.needs(engine) / GB, 3),
        "reduced": reduced,
    }


def _engines(supervisor: Supervisor, which: Which) -> list[Engine]:
    """Raises NotFound where this worker has no such model."""
    if which == "all":
        return list(supervisor.engines)
    engine = engine_of(supervisor, which)
    if engine is None:
        raise NotFound(f"This worker has no {which} model.", param="which", code="model_not_found")
    return [engine]


def _device(engine: Engine | None, memory: device.Memory) -> str | None:
    if not is_ready(engine):
        return None
    return "cuda:0" if memory.kind == "cuda" else "cpu"
