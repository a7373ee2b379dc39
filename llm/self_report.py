"""What the chat worker says of itself: models, health, capabilities. Every figure is measured, none is promised."""

import time
from dataclasses import dataclass, field
from typing import Any

from core.errors import NotFound
from core.paths import unescaped
from llm import device
from llm.catalogue import Role
from llm.device import GB, Memory
from llm.engine import Engine
from llm.settings import ChatWorkerSettings
from llm.supervisor import Supervisor
from llm.weights import Weights, weights

_ROLES: tuple[Role, ...] = ("instruct", "base")
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


class SelfReport:
    """Its public methods answer the worker's GET routes; sizes are in GB of 2^30 bytes."""

    def __init__(self, settings: ChatWorkerSettings, supervisor: Supervisor, counters: Counters) -> None:
        self._settings, self._supervisor, self._counters = settings, supervisor, counters
        self._sizes: dict[str, Weights | None] = {}

    # -- GET /health, /worker/info, /v1/models --------------------------------------------------------------------

    async def health(self) -> dict[str, Any]:
        engines = self._supervisor.engines
        return {
            "status": "healthy" if any(map(self._supervisor.residency.serves, engines)) else "starting",
            "model_loaded": self._ready is not None,
            "uptime": round(time.monotonic() - self._counters.started, 3),
            "stats": self._stats(),
            "worker_type": WORKER_TYPE,
            "no_hardcoded_prompts": True,
            "engines": {engine.model.id: {"state": engine.state, "restarts": engine.restarts} for engine in engines},
        }

    async def worker_info(self) -> dict[str, Any]:
        return {
            "worker_type": WORKER_TYPE,
            "model": (self._ready or self._supervisor.engines[0]).model.id,
            "capabilities": CAPABILITIES,
            "models_loaded": {**self._loaded(), "active_model_type": self._active()},
            "model_paths": self._paths(),
            "endpoints": ENDPOINTS,
        }

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": list(self._models().values())}

    async def model(self, name: str) -> dict[str, Any]:
        found = self._models().get(unescaped(name))
        if found is None:
            raise NotFound(f"The model `{name[:200]}` does not exist.", param="model", code="model_not_found")
        return found

    # -- GET /memory/status, /model/info, /debug/model ------------------------------------------------------------

    async def memory(self) -> dict[str, Any]:
        """From the device; from the host's memory and the engines' processes without one."""
        memory, residency = await device.memory(), self._supervisor.residency
        groups = [engine.pid for engine in self._supervisor.engines if engine.pid is not None]
        held = await device.host_bytes(groups) if memory.kind == "cpu" else memory.total - memory.available
        return {
            "total_vram": round(memory.total / GB, 3),
            "allocated_vram": round(held / GB, 3),
            "available_vram": round(memory.available / GB, 3),
            "model_loaded": self._ready is not None,
            **self._loaded(),
            "instruct_device": _device(self._of_role("instruct"), memory),
            "model_device": _device(self._ready, memory),
            "device_type": memory.kind,
            "budget": round(residency.budget / GB, 3),
            "device_lease": residency.lease.report() if residency.lease else None,
            "engines": self._details(),
        }

    async def model_info(self) -> dict[str, Any]:
        """Of the engine that answers, else of the first: its checkpoint's size, and what it runs on."""
        engine, memory = self._ready or self._supervisor.engines[0], await device.memory()
        found = self._size_of(engine)
        torch = device.torch_version(self._settings.vllm_python)
        return {
            "model_loaded": _is_ready(engine),
            "model_path": _path_of(engine),
            "model_device": _device(engine, memory),
            "device_type": memory.kind,
            "model_parameters": found.parameters if found else None,
            "model_size_gb": round(found.size / GB, 4) if found else None,
            "is_eval_mode": True,  # an inference engine has no other
            "torch_version": torch,
            "cuda_available": memory.kind == "cuda",
            "cuda_version": torch.partition("+cu")[2] if torch and "+cu" in torch else None,
            "gpu_name": memory.name,
        }

    async def debug(self) -> dict[str, Any]:
        memory = await device.memory()
        return {
            "active_model_type": self._active(),
            **self._loaded(),
            "paths": self._paths(),
            "devices": {role: _device(self._of_role(role), memory) for role in _ROLES},
            "stats": self._stats(),
            "engines": self._details(),
        }

    # -- parts of them --------------------------------------------------------------------------------------------

    @property
    def _ready(self) -> Engine | None:
        return next(filter(_is_ready, self._supervisor.engines), None)

    def _of_role(self, role: Role) -> Engine | None:
        return self._supervisor.of_role(role)

    def _loaded(self) -> dict[str, bool]:
        return {f"{role}_loaded": _is_ready(self._of_role(role)) for role in _ROLES}

    def _active(self) -> Role | None:
        return self._ready.model.role if self._ready else None

    def _paths(self) -> dict[Role, str | None]:
        return {role: _path_of(self._of_role(role)) for role in _ROLES}

    def _stats(self) -> dict[str, int]:
        counters = self._counters
        return {
            "requests_served": counters.requests,
            "model_loads": sum(engine.loads for engine in self._supervisor.engines),
            "sfw_requests": counters.sfw,
            "base_model_uses": counters.by_role["base"],
            "instruct_model_uses": counters.by_role["instruct"],
        }

    def _models(self) -> dict[str, dict[str, Any]]:
        """Those that answer, or would be loaded, by every name they answer to, in OpenAI's shape."""
        common = {"object": "model", "created": 0, "owned_by": "soundstage"}
        return {
            name: {"id": name, **common, "root": engine.model.id, "max_model_len": engine.limits.max_model_len}
            for engine in self._supervisor.engines
            if self._supervisor.residency.serves(engine)
            for name in engine.model.names
        }

    def _details(self) -> dict[str, dict[str, Any]]:
        """What each engine is doing; `reduced` where it was started with less after deaths for want of memory."""
        residency, found = self._supervisor.residency, {}
        for engine in self._supervisor.engines:
            queue, deaths = residency.queues[engine.model.id], engine.memory_deaths
            found[engine.model.id] = {
                "state": engine.state,
                "pinned": queue.pinned,
                "can_sleep": engine.can_sleep,
                "requests": queue.in_flight,
                "waiting": len(queue.waiters),
                "needs_gb": round(residency.needs(engine) / GB, 3),
                "reduced": {**engine.limits._asdict(), "deaths": deaths} if deaths else None,
            }
        return found

    def _size_of(self, engine: Engine) -> Weights | None:
        """Read once: a checkpoint does not change while it is served."""
        if engine.model.id not in self._sizes and engine.checkpoint is not None:
            self._sizes[engine.model.id] = weights(engine.checkpoint)
        return self._sizes.get(engine.model.id)


def _is_ready(engine: Engine | None) -> bool:
    return engine is not None and engine.state == "ready"


def _path_of(engine: Engine | None) -> str | None:
    return str(engine.checkpoint or engine.model.source) if engine else None


def _device(engine: Engine | None, memory: Memory) -> str | None:
    if not _is_ready(engine):
        return None
    return "cuda:0" if memory.kind == "cuda" else "cpu"
