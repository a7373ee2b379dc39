"""GET /v1/models: every model and alias that a live worker serves, with the names that the caller's tenant gives."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from core.errors import NotFound
from core.paths import unescaped
from orchestrator.access.dependencies import needs
from orchestrator.access.keys import Key, Keys
from orchestrator.workers.registry import WorkerPool


def router(keys: Keys, workers: WorkerPool) -> APIRouter:
    api = APIRouter(prefix="/v1/models", tags=["models"])
    any_key = Annotated[Key, Depends(needs(keys))]

    def visible(key: Key) -> dict[str, dict[str, Any]]:
        there = {name: model for name, (model, _) in workers.models().items()}
        named = {name: there[model] for name, model in key.aliases.items() if model in there}
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
            for name, model in sorted((there | named).items(), key=lambda each: each[0])
        }

    @api.get("")
    async def models(key: any_key) -> dict[str, Any]:
        return {"object": "list", "data": list(visible(key).values())}

    @api.get("/{name:path}")
    async def model(name: str, key: any_key) -> dict[str, Any]:
        found = visible(key).get(unescaped(name))
        if found is None:
            raise NotFound(f"The model `{name[:200]}` does not exist.", param="model", code="model_not_found")
        return found

    return api
