"""/v1/profile/create: a selfie becomes an avatar; /v1/likenesses: what is kept of it, and how it is taken back."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from core.errors import InvalidRequest
from core.http.disconnect import ClientDisconnected
from core.http.form import Field, Form, read_form
from core.parsing import body_schema, parse_strings
from orchestrator.access.dependencies import check_pictures, metered, needs
from orchestrator.access.keys import Key, Keys
from orchestrator.access.quotas import Quotas
from orchestrator.gateway.selfies import FORM_SECONDS, Selfie
from orchestrator.pipelines import profile
from orchestrator.pipelines.base import Studio
from orchestrator.pipelines.calls import RunService
from orchestrator.pipelines.routes import while_caller_waits
from orchestrator.runs.caller import caller_of

LARGE = frozenset({profile.PATH})  # paths whose bodies hold a picture
OPTION_BYTES = 4096
OPTIONS = profile.Options.model_fields
BODY = body_schema(
    {
        "type": "object",
        "required": ["image", "consent"],
        "properties": {
            "image": {"type": "string", "format": "binary", "description": "The selfie."},
            **profile.Options.model_json_schema()["properties"],
        },
    },
    "multipart/form-data",
)


def router(
    keys: Keys,
    quotas: Quotas,
    studio: Studio,
    service: RunService,
    *,
    longest: float,
    max_image: int,
    strength_max: float,
) -> APIRouter:
    api = APIRouter(tags=["pipelines"])
    drawing_key = Annotated[Key, Depends(metered(keys, quotas, "pipelines", repeated=service.knows))]
    own_key = Annotated[Key, Depends(needs(keys, "pipelines"))]  # who takes consent back is let in at any limit
    fields = {"image": Field(max_image, file=True, required=True)}
    fields |= {name: Field(OPTION_BYTES) for name in OPTIONS}

    @api.post(profile.PATH, openapi_extra=BODY, response_model=profile.Answer)
    async def create(request: Request, key: drawing_key) -> Response:
        """An avatar of the person in a selfie: analyze → describe → prompt → generate. Nothing of the picture stays."""
        form = await _form(request, fields)
        with Selfie(form.pop("image")) as selfie:
            asked, caller = _options(form), caller_of(request.scope, key)
            sent = profile.ProfileCall(**asked.model_dump(), selfie=selfie.sha256)
            if (again := await service.again(request, profile.NAME, sent, caller)) is not None:
                return again
            await check_pictures(request, asked.n)
            look = profile.prepare(studio, asked, selfie, caller, strength_max=strength_max)
            prepared, held = await while_caller_waits(request, look, longest)
        return await service.answer(request, profile.NAME, prepared, caller, held)

    @api.get("/v1/likenesses/{likeness}")
    async def one(likeness: str, key: own_key) -> dict[str, Any]:
        """What is kept of a selfie: its hash, and when its person consented."""
        return await studio.likenesses.one(key, likeness)

    @api.delete("/v1/likenesses/{likeness}")
    async def revoke(likeness: str, key: own_key) -> dict[str, Any]:
        """Take the consent back: the picture is refused from now on."""
        return await studio.likenesses.revoke(key, likeness)

    return api


async def _form(request: Request, fields: dict[str, Field]) -> Form:
    try:
        return await read_form(request.headers.get("content-type"), request.stream(), fields, FORM_SECONDS)
    except ClientDisconnect as exc:
        raise ClientDisconnected from exc


def _options(form: Form) -> profile.Options:
    """Raises InvalidRequest with the field's name."""
    try:
        texts = {name: value.decode() for name, value in form.items()}
    except UnicodeDecodeError as exc:
        raise InvalidRequest("A field is not UTF-8.", code="invalid_value") from exc
    return parse_strings(profile.Options, texts)
