"""What the older endpoints share: the body's two forms, and errors with the fields that their callers look for."""

from collections.abc import Awaitable
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from core.errors import SoundstageError, Unprocessable, internal
from core.http.disconnect import until_disconnect
from core.json import text as json_text
from core.pure import legacy_body
from orchestrator.operate import outage


def json_object(body: bytes) -> dict[str, Any]:
    """Raises InvalidRequest where the body is no JSON object."""
    found = json_text.decoded(body)
    if not isinstance(found, dict):
        raise Unprocessable("The body must be a JSON object.", code="invalid_body")
    return found


async def respond(request: Request, work: Awaitable[BaseModel], **legacy: Any) -> Response:
    """The answer, or the error with its legacy fields. The work ends when the caller leaves."""
    try:
        with until_disconnect(request.receive):
            answer = await work
    except (SoundstageError, *outage.OF_DATABASE) as caught:
        exc = caught if isinstance(caught, SoundstageError) else outage.error_of(caught) or internal()
        headers = {name.decode(): value.decode() for name, value in exc.headers()}
        return JSONResponse(legacy_body(exc, **legacy), exc.status, headers=headers)
    return JSONResponse(answer.model_dump(exclude_none=True))
