"""The selfie worker's HTTP face: POST /v1/profile/analyze, POST /v1/faces, GET /health."""

from typing import Any

from fastapi import FastAPI, Request, Response

from core.http.shell import Shell
from core.json.canonical import messages_sha256
from core.parsing import body_schema
from core.pictures.processes import Decoder
from core.service import create_service
from core.worker_key import worker_key_check
from vision.analysis import FaceModels
from vision.answer import Analysis, Faces
from vision.describe import VisionModel
from vision.settings import VisionSettings
from vision.worker import Worker

ANALYZE, FACES = "/v1/profile/analyze", "/v1/faces"
IMAGE = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, AVIF or HEIC"}
QUESTION = {
    "messages": {"type": "string", "description": "For a vision model: a JSON array of messages with text alone."},
    "schema": {"type": "string", "description": "For a vision model: the JSON Schema of its answer."},
    "sampling": {"type": "string", "description": "For a vision model: temperature, top_p, max_tokens, seed, as JSON."},
    "repair": {"type": "string", "description": "For a vision model: the user's turn after an answer that misfits."},
    "portrait": {"type": "string", "enum": ["true", "false"], "description": "true: the portrait comes back too."},
}


def create_app(
    settings: VisionSettings, models: FaceModels, decoder: Decoder, model: VisionModel | None = None
) -> Shell:
    """The worker as an ASGI application; it registers while its lifespan runs, and closes what it was given."""
    worker = Worker(settings, models, decoder, model)
    api = FastAPI(title="Soundstage selfie worker", lifespan=worker.lifespan)

    @api.post(ANALYZE, openapi_extra=_form(QUESTION))
    async def analyze(request: Request, response: Response) -> Analysis:
        """Find the subject's face, judge the photo, read its features. A picture without a face is answered too."""
        found, question = await worker.analyze(request)
        if question is not None:
            response.headers["x-messages-sha256"] = messages_sha256(question.messages) or ""
        return found

    @api.post(FACES, openapi_extra=_form({}))
    async def faces(request: Request) -> Faces:
        """Where the faces are; no more."""
        return await worker.faces(request)

    @api.get("/health")
    async def health() -> dict[str, Any]:
        return worker.health()

    door = worker_key_check(settings.worker_key)
    large = frozenset({ANALYZE, FACES})
    service = create_service(
        "vision", api, settings, ready=worker.ready, authorise=door, large=large, watchers=worker.watchers
    )
    service.on_stop(worker.leave)
    return service


def _form(more: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["image"], "properties": {"image": IMAGE, **more}}
    return body_schema(schema, "multipart/form-data")
