"""OpenAI's Images API: generations, edits, and what became of a request."""

import asyncio
import base64
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, Literal

import msgspec
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import Response

from core.errors import InvalidRequest
from core.http.disconnect import until_disconnect
from core.http.idempotency import HEADER
from core.parsing import body_schema, parse, parse_strings
from core.pictures.decode import Photo
from image import sources
from image.blobs import PATH
from image.encode import MEDIA_TYPES
from image.events import Admitted
from image.pipelines.base import Abilities
from image.request import ImageRequest
from image.streaming import EventStream, together
from image.upload import Form, parse_form
from image.wire import EditBody, GenerationBody, ImagesBody
from image.worker import Job, Picture, StreamPart, Worker, name_of, standing

EDITS = "/v1/images/edits"
Kind = Literal["image_generation", "image_edit"]


def add(api: FastAPI, worker: Worker) -> None:
    settings = worker.settings

    @api.post("/v1/images/generations", tags=["images"], openapi_extra=body_schema(GenerationBody.model_json_schema()))
    async def generate(http: Request) -> Response:
        body = parse(GenerationBody, await http.body())
        size = body.asked_size() or settings.default_size
        requests = body.requests(settings, seed(body.seed), standing(http), size)
        return await _answer(worker, http, "image_generation", body, requests, [await http.body()])

    @api.post(EDITS, tags=["images"], openapi_extra=_form_body(EditBody))
    async def edit(http: Request) -> Response:
        form = await asyncio.to_thread(parse_form, http.headers.get("content-type"), await http.body())
        body = parse_strings(EditBody, form.fields)
        requests = await _edit_requests(worker, http, body, form)
        sent = [body.model_dump_json().encode(), *form.images, form.mask or b""]
        return await _answer(worker, http, "image_edit", body, requests, sent)

    @api.post("/v1/images/find", tags=["images"])
    async def find(http: Request) -> dict[str, str | None]:
        """What is here under this Idempotency-Key: `running`, `finished` or null."""
        return {"found": worker.repeats.status(*_named(http))}

    @api.post("/v1/images/cancel", tags=["images"])
    async def cancel(http: Request) -> dict[str, bool]:
        """End what is drawn under this Idempotency-Key, whoever waits for it."""
        return {"cancelled": worker.repeats.cancel(*_named(http))}

    @api.get("/v1/images/requests/{id}", tags=["images"])
    async def request(id: str) -> dict[str, Any]:
        """How far a request is: `id` is its X-Request-Id."""
        return worker.ledger.report(id)

    @api.get(PATH + "{name}", tags=["images"])
    async def file(name: str, expires: str = "", signature: str = "") -> Response:
        """A picture behind a signed link; the signature is the key."""
        content = await asyncio.to_thread(worker.blobs.read, name, expires, signature, time.time())
        headers = {"cache-control": "private, immutable", "x-content-type-options": "nosniff"}
        return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=headers)


def _named(http: Request) -> tuple[str, str]:
    tenant, key = name_of(http)
    if key is None:
        raise InvalidRequest(f"{HEADER} names what is meant.", param=HEADER, code="missing")
    return tenant, key


def seed(asked: int | None) -> int:
    return random.getrandbits(32) if asked is None else asked


async def _edit_requests(worker: Worker, http: Request, body: EditBody, form: Form) -> list[ImageRequest]:
    """Decodes the pictures, unless the client leaves first. The first one's size is the picture's, where none is
    asked for; a model that looks at pictures sees each at a size of its own."""
    settings, abilities = worker.settings, worker.engines[worker.model(body.model)].abilities
    _check_pictures(form, abilities)
    strength = body.strength_for(abilities, masked=form.mask is not None)
    asked = body.asked_size()
    if asked is not None:
        settings.limits.check_size(*asked)
    sizes: list[tuple[int, int]] = []

    def size_of(photo: Photo) -> tuple[int, int]:
        own = sources.fitting_size(photo, settings.limits)
        sizes.append(asked or own)
        return sizes[0] if abilities.strength else own

    with until_disconnect(http.receive):
        source = await worker.sources.read(sources.EditFiles(form.images, form.mask, strength), size_of)
    settings.limits.check_size(*sizes[0])
    return body.requests(settings, seed(body.seed), standing(http), sizes[0], source)


def _check_pictures(form: Form, abilities: Abilities) -> None:
    """Raises InvalidRequest for none, and for more than the model can use."""
    if not abilities.pictures:
        raise InvalidRequest("The model edits no pictures.", param="image", code="unsupported_parameter")
    if not form.images:
        raise InvalidRequest("image: a picture to edit is required.", param="image", code="missing")
    if len(form.images) > abilities.pictures:
        message = f"The model can use {abilities.pictures} of the {len(form.images)} pictures sent."
        raise InvalidRequest(message, param="image", code="too_many_images")
    if form.mask is not None and not abilities.masks:
        raise InvalidRequest("The model takes no mask.", param="mask", code="unsupported_parameter")


async def _answer(
    worker: Worker, http: Request, kind: Kind, body: ImagesBody, requests: Sequence[ImageRequest], sent: Sequence[bytes]
) -> Response:
    model = worker.model(body.model)
    job = worker.job(http, model, requests, body.output, bool(body.prompt_in_metadata), sent=sent)
    repeated = worker.repeated(job)
    if body.stream:
        answered = await _stream(worker, http, kind, body, job)
        answered.headers.update(repeated)
        return answered
    pictures = await worker.run(http, job)
    data = [await _datum(worker, http, body, job, picture) for picture in pictures]
    first = pictures[0]
    answer = {
        "created": int(time.time()),
        "data": data,
        **_described(body, job),
        "usage": _usage(pictures),
        "model": job.model,
        "steps": first.request.own_steps,
        "guidance": first.request.guidance,
        "prompt_sha256": first.done.prompt_sha256,
    }
    headers = {"x-prompt-sha256": first.done.prompt_sha256, **repeated}
    return Response(msgspec.json.encode(answer), media_type="application/json", headers=headers)


async def _datum(worker: Worker, http: Request, body: ImagesBody, job: Job, picture: Picture) -> dict[str, Any]:
    if body.response_format != "url":
        return {"b64_json": picture.b64, "seed": picture.request.seed}
    now = time.time()
    name = await asyncio.to_thread(worker.blobs.put, picture.file, job.output.format, now)
    settings = worker.settings
    base = settings.reached_at() if settings.public_url or settings.runpod_pod_id else str(http.base_url)
    return {"url": worker.blobs.link(base, name, now), "seed": picture.request.seed}


async def _stream(worker: Worker, http: Request, kind: Kind, body: ImagesBody, job: Job) -> Response:
    """Begins when the image runs: what fails before that is an ordinary error."""
    async with AsyncExitStack() as stack:
        events = await stack.enter_async_context(aclosing(_events(worker, kind, body, job)))
        with until_disconnect(http.receive):
            first = await anext(events)
        held = stack.pop_all()

    async def all_events() -> AsyncGenerator[dict[str, Any], None]:
        async with held:
            yield first
            async for event in events:
                yield event

    return EventStream(all_events())


async def _events(worker: Worker, kind: Kind, body: ImagesBody, job: Job) -> AsyncGenerator[dict[str, Any], None]:
    async with worker.submitted(job) as images:
        followed = together([worker.follow(job, image) for image in images])
        async with aclosing(followed):
            async for image, part in followed:
                yield _event(kind, body, job, image, part)


def _event(kind: Kind, body: ImagesBody, job: Job, image: int, part: StreamPart) -> dict[str, Any]:
    """`image`: which of the n."""
    if isinstance(part, Admitted):
        return {}  # the answer may begin
    event = {"created_at": int(time.time()), "image_index": image, **_described(body, job)}
    if isinstance(part, Picture):
        completed = {"usage": _usage([part]), "seed": part.request.seed, "model": job.model}
        proof = {"steps": part.request.own_steps, "prompt_sha256": part.done.prompt_sha256}
        return {"type": f"{kind}.completed", "b64_json": part.b64, **event, **completed, **proof}
    index, file = part
    b64 = base64.b64encode(file).decode()
    return {"type": f"{kind}.partial_image", "partial_image_index": index, "b64_json": b64, **event}


def _described(body: ImagesBody, job: Job) -> dict[str, Any]:
    return {
        "background": "opaque",
        "output_format": job.output.format,
        "quality": body.quality or "auto",
        "size": f"{job.requests[0].width}x{job.requests[0].height}",
    }


def _usage(pictures: Sequence[Picture]) -> dict[str, Any]:
    text = sum(p.done.text_tokens for p in pictures)
    sent = sum(p.sent_tokens for p in pictures)
    image = sum(p.done.image_tokens for p in pictures)
    return {
        "input_tokens": text + sent,
        "output_tokens": image,
        "total_tokens": text + sent + image,
        "input_tokens_details": {"text_tokens": text, "image_tokens": sent},
    }


def _form_body(body: type[BaseModel]) -> dict[str, Any]:
    schema = body.model_json_schema()
    picture = {"type": "string", "format": "binary"}
    schema["properties"] |= {"image": picture, "mask": picture}
    schema["required"] = [*schema["required"], "image"]
    return body_schema(schema, "multipart/form-data")
