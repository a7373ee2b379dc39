"""GET /v1/models: every model and alias that a live worker serves."""

from typing import Any

from fastapi import APIRouter, Depends

from core.errors import NotFound
from orchestrator.auth import Keys
from orchestrator.routes.access import needs
from orchestrator.workers import WorkerPool


def router(keys: Keys, workers: WorkerPool) -> APIRouter:
    api = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(needs(keys))])

    def listed() -> dict[str, dict[str, Any]]:
        return {
            name: {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "soundstage",
                "root": model.id,
                "abilities": list(model.abilities),
                **({"max_model_len": model.max_model_len} if model.max_model_len else {}),
            }
            for name, (model, _) in sorted(workers.models().items())
        }

    @api.get("")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": list(listed().values())}

    @api.get("/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        found = listed().get(name)
        if found is None:
            raise NotFound(f"The model `{name[:200]}` does not exist.", param="model", code="model_not_found")
        return found

    return api
