"""The multipart body, read in memory: an upload never becomes a temporary file."""

import asyncio

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from core.disconnect import ClientDisconnected
from core.errors import InvalidRequest

FIELD = "image"
FOR_A_VISION_MODEL = frozenset({"messages", "schema"})
MAX_FIELDS = 8


async def read_image(request: Request, *, max_bytes: int, seconds: float) -> bytes:
    """The bytes of the one file in field `image`; any other field is refused by name. Raises InvalidRequest."""
    try:
        async with asyncio.timeout(seconds):
            form = await _form(request, max_bytes)
    except TimeoutError as exc:
        raise InvalidRequest(f"The body took longer than {seconds:g} s.", code="upload_timeout") from exc
    except MultiPartException as exc:
        raise InvalidRequest(exc.message, code="invalid_multipart") from exc
    except ClientDisconnect as exc:
        raise ClientDisconnected from exc
    try:
        _check_fields(form)
        return await _only_file(form)
    finally:
        await form.close()


async def _form(request: Request, max_bytes: int) -> FormData:
    kind = request.headers.get("content-type", "")
    if kind.split(";")[0].strip().lower() != "multipart/form-data":
        raise InvalidRequest("The body must be multipart/form-data.", code="invalid_content_type")
    parser = MultiPartParser(request.headers, request.stream(), max_files=MAX_FIELDS, max_fields=MAX_FIELDS)
    parser.spool_max_size = max_bytes + 1  # the body cannot be larger, so nothing spills to disk
    return await parser.parse()


def _check_fields(form: FormData) -> None:
    for name in form:
        if name in FOR_A_VISION_MODEL:
            message = f"{name}: no vision model is configured."
            raise InvalidRequest(message, code="vision_model_not_configured", param=name)
        if name != FIELD:
            raise InvalidRequest(f"{name[:64]}: unknown field.", code="unknown_parameter", param=name[:64])


async def _only_file(form: FormData) -> bytes:
    files = form.getlist(FIELD)
    if not files:
        raise InvalidRequest("image: this file is required.", code="missing", param=FIELD)
    if len(files) > 1:
        raise InvalidRequest("image: send one file.", code="too_many_images", param=FIELD)
    file = files[0]
    if not isinstance(file, UploadFile):
        raise InvalidRequest("image: must be a file, with a file name.", code="not_a_file", param=FIELD)
    return await file.read()
