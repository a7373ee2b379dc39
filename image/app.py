"""The image worker's HTTP surface: parse → submit → wait → encode. What it is sent is what it runs."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import Response

from core.errors import NotFound
from core.service import ASGIApp, Readiness, create_service
from core.worker_key import worker_key_check
from image.async_engine import AsyncEngine
from image.lifespan import lifespan
from image.metrics import Recorder
from image.pipelines.base import StepPipeline
from image.settings import ImageSettings
from image.wire import GenerationBody, WorkerBody, parse
from image.worker import Picture, Worker

WORKER_PATHS = (
    "/v1/profile/generate",
    "/v1/chat/1to1/generate",
    "/v1/chat/shorts/generate",
    "/v1/chat/scenes/generate",
)


def create_app(
    settings: ImageSettings,
    load: Callable[[], StepPipeline],
    *,
    on_load_failure: Callable[[], object] = lambda: None,
) -> ASGIApp:
    """The service over a pipeline that `load` makes, on the engine's thread, once serving begins.

    The app answers at once and is ready when the model is. `on_load_failure` is told if it cannot be.
    """
    recorder = Recorder()
    engine = AsyncEngine(
        load,
        settings.budget,
        capacity=settings.image_queue_max,
        retry_after_cap=settings.interface_retry_after_cap_ms / 1000,
        observe=recorder.observe,
    )
    recorder.watch(engine)
    worker = Worker(settings, engine, time.time())

    async def ready() -> Readiness:
        return Readiness(engine.ready, {"model": settings.model_id, **worker.load()})

    api = FastAPI(title="Soundstage image worker", lifespan=lifespan(worker, on_load_failure))
    _add_openai(api, worker)
    _add_worker_paths(api, worker)
    _add_health(api, worker)
    key = settings.wan_worker_api_key
    authorise = worker_key_check(key.get_secret_value() if key else None)
    return create_service("image", api, settings, ready=ready, authorise=authorise)


def _add_openai(api: FastAPI, worker: Worker) -> None:
    settings = worker.settings

    @api.post("/v1/images/generations", tags=["images"], openapi_extra=_schema(GenerationBody))
    async def generate(http: Request) -> Response:
        body = parse(GenerationBody, await http.body())
        _check_model(body.model, settings)
        pictures = await worker.run(http, body.requests(settings, _seed(body.seed)))
        first = pictures[0]
        answer = {
            "created": int(time.time()),
            "data": [{"b64_json": p.b64, "seed": p.request.seed} for p in pictures],
            "background": "opaque",
            "output_format": "png",
            "quality": body.quality or "auto",
            "size": f"{first.request.width}x{first.request.height}",
            "usage": _usage(pictures),
            "model": settings.model_id,
            "steps": first.request.steps,
            "guidance": first.request.guidance,
            "prompt_sha256": first.done.prompt_sha256,
        }
        return _json(answer, first)

    @api.get("/v1/models", tags=["models"])
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(worker)]}

    @api.get("/v1/models/{id:path}", tags=["models"])
    async def model(id: str) -> dict[str, Any]:
        _check_model(id, settings)
        return _model(worker)


def _add_worker_paths(api: FastAPI, worker: Worker) -> None:
    async def generate(http: Request) -> Response:
        started = time.perf_counter()
        body = parse(WorkerBody, await http.body())
        request = body.request(worker.settings, _seed(body.seed))
        [picture] = await worker.run(http, [request])
        answer = {
            "image_base64": picture.b64,
            "seed": request.seed,
            "width": request.width,
            "height": request.height,
            "steps": request.steps,
            "guidance": request.guidance,
            "negative_prompt_used": bool(request.negative_prompt) and request.guidance > 0,
            "model": worker.settings.model_id,
            "prompt_sha256": picture.done.prompt_sha256,
            "generation_time": round(time.perf_counter() - started, 3),
        }
        return _json(answer, picture)

    for path in WORKER_PATHS:
        api.post(path, tags=["worker"], openapi_extra=_schema(WorkerBody))(generate)


def _add_health(api: FastAPI, worker: Worker) -> None:
    @api.get("/health", tags=["operating"])
    async def health() -> dict[str, Any]:
        counters = worker.engine.counters
        return {
            "status": "healthy" if worker.engine.ready else "loading",
            "model": worker.settings.model_id,
            "model_loaded": worker.engine.ready,
            "uptime": round(time.time() - worker.started, 3),
            "worker_type": "pure_inference_engine",
            "no_hardcoded_prompts": True,
            "engine": {
                **worker.load(),
                "turns": counters.turns,
                "request_steps": counters.request_steps,
                "tokens": counters.tokens,
                "padding_tokens": counters.padding,
            },
        }


def _model(worker: Worker) -> dict[str, Any]:
    return {"id": worker.settings.model_id, "object": "model", "created": int(worker.started), "owned_by": "soundstage"}


def _check_model(asked: str | None, settings: ImageSettings) -> None:
    if asked not in (None, settings.model_id):
        raise NotFound(f"The model '{asked}' is not served here.", param="model", code="model_not_found")


def _seed(asked: int | None) -> int:
    return random.getrandbits(32) if asked is None else asked


def _usage(pictures: Sequence[Picture]) -> dict[str, Any]:
    text = sum(p.done.text_tokens for p in pictures)
    image = sum(p.done.image_tokens for p in pictures)
    return {
        "input_tokens": text,
        "output_tokens": image,
        "total_tokens": text + image,
        "input_tokens_details": {"text_tokens": text, "image_tokens": 0},
    }


def _json(answer: dict[str, Any], picture: Picture) -> Response:
    headers = {"x-prompt-sha256": picture.done.prompt_sha256}
    return Response(msgspec.json.encode(answer), media_type="application/json", headers=headers)


def _schema(body: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body.model_json_schema()}}}}
