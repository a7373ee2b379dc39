"""What the chat worker says of itself: models, health, capabilities. Every figure is measured, none is promised."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI

from core.errors import NotFound
from core.paths import unescaped
from llm.catalogue import Role
from llm.engine import Engine
from llm.settings import ChatWorkerSettings
from llm.supervisor import Supervisor

WORKER_TYPE = "pure_inference_engine"
CAPABILITIES = {
    "chat": True,
    "enhancement": True,
    "generation": True,
    "hardcoded_prompts": False,
    "prompt_modification": False,
    "pure_inference": True,
}
ENDPOINTS = {
    "/chat": "POST - messages to an answer, pure form",
    "/enhance": "POST - the same, 200 tokens by default",
    "/generate": "POST - the same",
    "/v1/chat/completions": "POST - chat, OpenAI's shape, relayed to the engine as sent",
    "/v1/completions": "POST - completions, OpenAI's shape",
    "/v1/responses": "POST - responses, OpenAI's shape",
    "/v1/embeddings": "POST - embeddings, where the model can",
    "/tokenize": "POST - token ids of a text or of messages",
    "/detokenize": "POST - text of token ids",
    "/v1/models": "GET - models and aliases served",
    "/health": "GET - state and counters",
    "/worker/info": "GET - this",
    "/model/info": "GET - the checkpoint's size and the device",
    "/debug/model": "GET - engines and counters",
    "/memory/status": "GET - memory, measured",
    "/memory/load": "POST - load a model",
    "/memory/unload": "POST - unload a model",
    "/metrics": "GET - Prometheus metrics",
}


@dataclass
class Counters:
    """Since the process started. Changed on one event loop only, so exact."""

    started: float = field(default_factory=time.monotonic)
    requests: int = 0
    sfw: int = 0
    by_role: dict[Role, int] = field(default_factory=lambda: {"instruct": 0, "base": 0, "vision": 0})

    def served(self, role: Role, *, sfw: bool) -> None:
        self.requests += 1
        self.sfw += sfw
        self.by_role[role] += 1


def add_self_report(api: FastAPI, settings: ChatWorkerSettings, supervisor: Supervisor, counters: Counters) -> None:
    """GET /health, /worker/info, /v1/models and /v1/models/{id}."""

    @api.get("/health")
    async def health() -> dict[str, Any]:
        serves = any(map(supervisor.residency.serves, supervisor.engines))
        return {
            "status": "healthy" if serves else "starting",
            "model_loaded": any(map(is_ready, supervisor.engines)),
            "uptime": round(time.monotonic() - counters.started, 3),
            "stats": stats(supervisor, counters),
            "worker_type": WORKER_TYPE,
            "no_hardcoded_prompts": True,
            "engines": {
                engine.model.id: {"state": engine.state, "restarts": engine.restarts} for engine in supervisor.engines
            },
        }

    @api.get("/worker/info")
    async def info() -> dict[str, Any]:
        instruct, base = engine_of(supervisor, "instruct"), engine_of(supervisor, "base")
        ready = next((engine for engine in supervisor.engines if engine.state == "ready"), None)
        return {
            "worker_type": WORKER_TYPE,
            "model": (ready or supervisor.engines[0]).model.id,
            "capabilities": CAPABILITIES,
            "models_loaded": {
                "instruct_loaded": is_ready(instruct),
                "base_loaded": is_ready(base),
                "active_model_type": ready.model.role if ready else None,
            },
            "model_paths": {"instruct": path_of(instruct), "base": path_of(base)},
            "endpoints": ENDPOINTS,
        }

    @api.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": list(_models(supervisor).values())}

    @api.get("/v1/models/{name:path}")
    async def model(name: str) -> Mapping[str, Any]:
        found = _models(supervisor).get(unescaped(name))
        if found is None:
            raise NotFound(f"The model `{name[:200]}` does not exist.", param="model", code="model_not_found")
        return found


def stats(supervisor: Supervisor, counters: Counters) -> dict[str, int]:
    return {
        "requests_served": counters.requests,
        "model_loads": sum(engine.loads for engine in supervisor.engines),
        "sfw_requests": counters.sfw,
        "base_model_uses": counters.by_role["base"],
        "instruct_model_uses": counters.by_role["instruct"],
    }


def _models(supervisor: Supervisor) -> dict[str, dict[str, Any]]:
    """Those that answer, or would be loaded, by every name they answer to, in OpenAI's shape."""
    return {
        name: {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "soundstage",
            "root": engine.model.id,
            "max_model_len": engine.limits.max_model_len,
        }
        for engine in supervisor.engines
        if supervisor.residency.serves(engine)
        for name in engine.model.names
    }


def engine_of(supervisor: Supervisor, role: Role) -> Engine | None:
    """The engine that answers for a role: its own, else the one that answers to the role's alias."""
    alias = f"qwen_{role}"
    return next((e for e in supervisor.engines if e.model.role == role or alias in e.model.names), None)


def is_ready(engine: Engine | None) -> bool:
    return engine is not None and engine.state == "ready"


def path_of(engine: Engine | None) -> str | None:
    return str(engine.checkpoint or engine.model.source) if engine else None
