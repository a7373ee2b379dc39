"""The paths of the studio's own pipelines: one image for one prompt."""

import time

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from core.parsing import body_schema, parse
from image.encode import Output
from image.routes.openai_images import seed
from image.wire import WorkerBody
from image.worker import Worker, standing

WORKER_PATHS = (
    "/v1/profile/generate",
    "/v1/chat/1to1/generate",
    "/v1/chat/shorts/generate",
    "/v1/chat/scenes/generate",
)


def add(api: FastAPI, worker: Worker) -> None:
    async def generate(http: Request) -> Response:
        started = time.perf_counter()
        body = parse(WorkerBody, await http.body())
        request = body.request(worker.settings, seed(body.seed), standing(http))
        job = worker.job(
            http, worker.model(None), [request], Output(), bool(body.prompt_in_metadata), sent=[await http.body()]
        )
        [picture] = await worker.run(http, job)
        request = picture.request  # where it was asked for before, the seed is that call's
        answer = {
            "image_base64": picture.b64,
            "seed": request.seed,
            "width": request.width,
            "height": request.height,
            "steps": request.steps,
            "guidance": request.guidance,
            "negative_prompt_used": bool(request.negative_prompt) and request.guidance > 0,
            "model": job.model,
            "prompt_sha256": picture.done.prompt_sha256,
            "generation_time": round(time.perf_counter() - started, 3),
        }
        headers = {"x-prompt-sha256": picture.done.prompt_sha256}
        return Response(msgspec.json.encode(answer), media_type="application/json", headers=headers)

    for path in WORKER_PATHS:
        api.post(path, tags=["worker"], openapi_extra=body_schema(WorkerBody.model_json_schema()))(generate)
