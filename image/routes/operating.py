"""What an operator asks: models, health, the scheduler's last choice; and draining."""

from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from core.paths import unescaped
from image.async_engine import AsyncEngine
from image.worker import Worker


def add(api: FastAPI, worker: Worker) -> None:
    @api.get("/v1/models", tags=["models"])
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(worker, id) for id in worker.engines]}

    @api.get("/v1/models/{id:path}", tags=["models"])
    async def model(id: str) -> dict[str, Any]:
        return _model(worker, worker.model(unescaped(id)))

    @api.get("/health", tags=["operating"])
    async def health() -> dict[str, Any]:
        default = worker.engines[worker.settings.model_id]
        return {
            "status": _status(worker),
            "model": worker.settings.model_id,
            "model_loaded": default.loaded,
            "uptime": round(worker.uptime(), 3),
            "worker_type": "pure_inference_engine",
            "no_hardcoded_prompts": True,
            "engine": {**worker.load(), **_figures(default)},
        }

    @api.get("/debug/scheduler", tags=["operating"])
    async def scheduler() -> dict[str, Any]:
        """Why each image stepped or waited when a batch was last chosen, per model."""
        return {id: _decision(engine) for id, engine in worker.engines.items()}

    @api.post("/drain", tags=["operating"])
    async def drain() -> Response:
        """Take no new images; readiness goes off, those that are here end as usual."""
        worker.begin_drain()
        return JSONResponse({"draining": True, **worker.load()}, 202)


def _status(worker: Worker) -> str:
    if worker.draining:
        return "draining"
    if any(engine.hung for engine in worker.engines.values()):
        return "device hung"
    return "healthy" if worker.ready else "loading"


def _model(worker: Worker, id: str) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": int(worker.started), "owned_by": "soundstage"}


def _figures(engine: AsyncEngine) -> dict[str, Any]:
    counters = engine.counters
    return {
        "turns": counters.turns,
        "request_steps": counters.request_steps,
        "tokens": counters.tokens,
        "padding_tokens": counters.padding,
        "step_tokens": counters.step_tokens,
        "out_of_memory": counters.out_of_memory,
        "embedding_cache": {
            "bytes": counters.cached_bytes,
            "hits": counters.cache_hits,
            "misses": counters.cache_misses,
        },
    }


def _decision(engine: AsyncEngine) -> dict[str, Any] | None:
    decision = engine.counters.decision
    if decision is None:
        return None
    return {
        "step": list(decision.step),
        "cost_tokens": decision.cost,
        "padding_tokens": decision.padding,
        "reasons": [{"image": r.id, "verdict": r.verdict, "due": r.due, "finish": r.finish} for r in decision.reasons],
    }
