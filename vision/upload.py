"""The multipart body, collected in memory: an upload never becomes a temporary file."""

import asyncio
from collections.abc import AsyncIterable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from core.disconnect import ClientDisconnected
from core.errors import InvalidRequest

FIELD = "image"
FOR_A_VISION_MODEL = frozenset({"messages", "schema"})
NAME_SHOWN = 64  # characters of an unknown field's name that an answer repeats


async def read_image(request: Request, seconds: float) -> bytes:
    """The bytes of the one file in field `image`; any other field is refused by name. Raises InvalidRequest."""
    part = _ImagePart()
    try:
        async with asyncio.timeout(seconds):
            await _parse(request.stream(), _boundary(request), part)
    except TimeoutError as exc:
        raise InvalidRequest(f"The body took longer than {seconds:g} s.", code="upload_timeout") from exc
    except FormParserError as exc:
        raise InvalidRequest("The body is not valid multipart.", code="invalid_multipart") from exc
    except ClientDisconnect as exc:
        raise ClientDisconnected from exc
    return part.content()


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise InvalidRequest("The body must be multipart/form-data.", code="invalid_content_type")
    if not options.get(b"boundary"):
        raise InvalidRequest("The content type names no boundary.", code="invalid_multipart")
    return options[b"boundary"]


async def _parse(body: AsyncIterable[bytes], boundary: bytes, part: "_ImagePart") -> None:
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": part.begin,
            "on_header_field": part.header_field,
            "on_header_value": part.header_value,
            "on_header_end": part.header_end,
            "on_headers_finished": part.headers_finished,
            "on_part_data": part.data,
            "on_end": part.end,
        },
    )
    async for chunk in body:
        parser.write(chunk)
    parser.finalize()


class _ImagePart:
    """The parser's callbacks. Refuses a part that is not the image as soon as its name is known."""

    def __init__(self) -> None:
        self._content: bytearray | None = None
        self._ended = False
        self.begin()

    def begin(self) -> None:
        self._name, self._value, self._disposition = b"", b"", b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        _check_field(options.get(b"name", b"").decode(errors="replace"))
        if b"filename" not in options:
            raise InvalidRequest("image: must be a file, with a file name.", code="not_a_file", param=FIELD)
        if self._content is not None:
            raise InvalidRequest("image: send one file.", code="too_many_images", param=FIELD)
        self._content = bytearray()

    def data(self, data: bytes, start: int, end: int) -> None:
        assert self._content is not None
        self._content += data[start:end]

    def end(self) -> None:
        self._ended = True

    def content(self) -> bytes:
        if self._content is None:
            raise InvalidRequest("image: this file is required.", code="missing", param=FIELD)
        if not self._ended:
            raise InvalidRequest("The body ends before its last boundary.", code="invalid_multipart")
        return bytes(self._content)


def _check_field(name: str) -> None:
    if not name:
        raise InvalidRequest("A part of the body has no name.", code="invalid_multipart")
    if name in FOR_A_VISION_MODEL:
        raise InvalidRequest(f"{name}: no vision model is configured.", code="vision_model_not_configured", param=name)
    if name != FIELD:
        shown = name[:NAME_SHOWN]
        raise InvalidRequest(f"{shown}: unknown field.", code="unknown_parameter", param=shown)
