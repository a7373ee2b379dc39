"""Which LoRA adapters there are, and which are loaded: asked for by name, behind the worker's key."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request

from core.parsing import body_schema, parse
from image.pipelines.adapters import files
from image.wire import AdapterBody
from image.worker import Worker


def add(api: FastAPI, worker: Worker) -> None:
    schema = body_schema(AdapterBody.model_json_schema())

    @api.get("/v1/images/adapters", tags=["adapters"])
    async def adapters() -> dict[str, Any]:
        """Those in the folder, with the models that hold each now."""
        return await _listed(worker)

    @api.post("/v1/images/adapters/load", tags=["adapters"], openapi_extra=schema)
    async def load(http: Request) -> dict[str, Any]:
        """Ahead of the first request for it. Others may be unloaded to make room."""
        return await _adapt(worker, http, load=True)

    @api.post("/v1/images/adapters/unload", tags=["adapters"], openapi_extra=schema)
    async def unload(http: Request) -> dict[str, Any]:
        """Its memory is free again; 409 while an image is drawn with it."""
        return await _adapt(worker, http, load=False)


async def _adapt(worker: Worker, http: Request, *, load: bool) -> dict[str, Any]:
    body = parse(AdapterBody, await http.body())
    async with worker.turn():
        await worker.engines[worker.model(body.model)].adapt(body.lora, load=load)
    return await _listed(worker)


async def _listed(worker: Worker) -> dict[str, Any]:
    found = await asyncio.to_thread(files, worker.settings.image_lora_dir)
    loaded = {model: set(engine.counters.adapters) for model, engine in worker.engines.items()}
    data = [
        {"lora": name, "bytes": size, "loaded": [model for model, names in loaded.items() if name in names]}
        for name, size in found.items()
    ]
    return {"object": "list", "data": data}
