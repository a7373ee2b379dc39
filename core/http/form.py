"""A multipart form of known fields, collected in memory.

Parts are refused as soon as their name or size is known. Their contents are bytearrays, so that who holds one can wipe
it.
"""

import asyncio
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass

from core.errors import InvalidRequest, PayloadTooLarge, RequestTimeout
from core.http.multipart import Parts, boundary_of

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
    parts = _Fields(boundary_of(content_type), fields)
    try:
        async with asyncio.timeout(seconds):
            async for chunk in body:
                parts.feed(chunk)
        parts.finish()
    except TimeoutError as exc:
        raise RequestTimeout(f"The body took longer than {seconds:g} s.", code="upload_timeout") from exc
    return parts.form


class _Fields(Parts):
    def __init__(self, boundary: bytes, fields: Mapping[str, Field]) -> None:
        super().__init__(boundary)
        self._fields = fields
        self.form: Form = {}

    def part_named(self, name: str, headers: dict[bytes, bytes], *, file: bool) -> None:
        self._name = _known(name, self._fields)
        if self._name in self.form:
            raise _refusal(self._name, "is given twice.", "duplicate_field")
        if self._fields[self._name].file and not file:
            raise _refusal(self._name, "must be a file, with a file name.", "not_a_file")
        self.form[self._name] = bytearray()

    def part_data(self, data: bytes) -> None:
        content, most = self.form[self._name], self._fields[self._name].max_bytes
        content += data
        if len(content) > most:
            raise PayloadTooLarge(
                f"{self._name} is larger than {most} bytes.", code=f"{self._name}_bytes", param=self._name
            )

    def body_ended(self) -> None:
        for name, field in self._fields.items():
            if field.required and name not in self.form:
                raise _refusal(name, "this field is required.", "missing")


def _known(name: str, fields: Mapping[str, Field]) -> str:
    if not name:
        raise InvalidRequest("A part of the body has no name.", code="invalid_multipart")
    if name not in fields:
        raise _refusal(name[:NAME_SHOWN], "unknown field.", "unknown_parameter")
    return name


def _refusal(name: str, what: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"{name}: {what}", code=code, param=name)
