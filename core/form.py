"""A multipart form, collected in memory: an upload never becomes a temporary file.

Parts are refused as soon as their name or size is known. Their contents are bytearrays, so that who holds one can wipe
it.
"""

import asyncio
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from core.errors import InvalidRequest, PayloadTooLarge, RequestTimeout

NAME_SHOWN = 64  # characters of an unknown field's name that an answer repeats


@dataclass(frozen=True)
class Field:
    """What a form may hold under one name. A file is a part with a file name."""

    max_bytes: int
    file: bool = False
    required: bool = False


Form = dict[str, bytearray]


async def read_form(
    content_type: str | None, body: AsyncIterable[bytes], fields: Mapping[str, Field], seconds: float
) -> Form:
    """Each field's content by its name. Raises InvalidRequest, PayloadTooLarge, RequestTimeout."""
    form = _Collector(fields)
    parser = MultipartParser(_boundary(content_type), form.callbacks())  # type: ignore[arg-type]  # of bound methods
    try:
        async with asyncio.timeout(seconds):
            async for chunk in body:
                parser.write(chunk)
        parser.finalize()
        return form.contents()
    except TimeoutError as exc:
        raise RequestTimeout(f"The body took longer than {seconds:g} s.", code="upload_timeout") from exc
    except FormParserError as exc:
        raise InvalidRequest("The body is not valid multipart.", code="invalid_multipart") from exc


def _boundary(content_type: str | None) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise InvalidRequest("The body must be multipart/form-data.", code="invalid_content_type")
    boundary = options.get(b"boundary")
    if not boundary or len(boundary) > 256:
        raise InvalidRequest("The content type names no usable boundary.", code="invalid_multipart")
    return boundary


class _Collector:
    """The parser's callbacks."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._fields = fields
        self._form: Form = {}
        self._ended = False
        self.begin()

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self.begin,
            "on_header_field": self.header_field,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_headers_finished": self.headers_finished,
            "on_part_data": self.data,
            "on_end": self.end,
        }

    def begin(self) -> None:
        self._header, self._value, self._disposition = b"", b"", b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = _known(options.get(b"name", b"").decode(errors="replace"), self._fields)
        if self._name in self._form:
            raise _refusal(self._name, "is given twice.", "duplicate_field")
        if self._fields[self._name].file and b"filename" not in options:
            raise _refusal(self._name, "must be a file, with a file name.", "not_a_file")
        self._form[self._name] = bytearray()

    def data(self, data: bytes, start: int, end: int) -> None:
        content, most = self._form[self._name], self._fields[self._name].max_bytes
        content += data[start:end]
        if len(content) > most:
            raise PayloadTooLarge(
                f"{self._name} is larger than {most} bytes.", code=f"{self._name}_bytes", param=self._name
            )

    def end(self) -> None:
        self._ended = True

    def contents(self) -> Form:
        for name, field in self._fields.items():
            if field.required and name not in self._form:
                raise _refusal(name, "this field is required.", "missing")
        if not self._ended:
            raise InvalidRequest("The body ends before its last boundary.", code="invalid_multipart")
        return self._form


def _known(name: str, fields: Mapping[str, Field]) -> str:
    if not name:
        raise InvalidRequest("A part of the body has no name.", code="invalid_multipart")
    if name not in fields:
        raise _refusal(name[:NAME_SHOWN], "unknown field.", "unknown_parameter")
    return name


def _refusal(name: str, what: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"{name}: {what}", code=code, param=name)
