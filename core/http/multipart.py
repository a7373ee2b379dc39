"""A multipart body, part by part, in memory: an upload never becomes a temporary file."""

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from core.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


def boundary_of(content_type: str | bytes | None) -> bytes:
    """What parts the body. Raises InvalidRequest where it is no form."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise InvalidRequest("The body must be multipart/form-data.", code="invalid_content_type")
    boundary = options.get(b"boundary")
    if not boundary or len(boundary) > 256 or _times(b"boundary", content_type) != 1:
        raise InvalidRequest("The content type names no usable boundary.", code="invalid_content_type")
    return boundary


class Parts(ABC):
    """Reads a body of such parts; what it makes of them is said by those who inherit from it.

    Every method may raise what the caller is told; reading ends there.
    """

    def __init__(self, boundary: bytes) -> None:
        self._field = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._ended = False
        callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self.part_ended,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, cast("MultipartCallbacks", callbacks))

    def part_began(self) -> None:  # noqa: B027 - as below
        """Another part comes."""

    @abstractmethod
    def part_named(self, name: str, headers: dict[bytes, bytes], *, file: bool) -> None:
        """Its headers are known, their names in lower case. `file`: it has a file name."""

    @abstractmethod
    def part_data(self, data: bytes) -> None:
        """Some of its content."""

    def part_ended(self) -> None:  # noqa: B027 - who has no use for it need not say so
        """That was all of it."""

    def body_ended(self) -> None:  # noqa: B027 - as above
        """Nothing more comes, whether the last boundary was there or not."""

    def feed(self, chunk: bytes) -> None:
        """Raises InvalidRequest for what is no multipart."""
        try:
            self._parser.write(chunk)
        except FormParserError as exc:
            raise _invalid() from exc

    def finish(self) -> None:
        """The body has ended. Raises InvalidRequest where its last boundary has not come."""
        try:
            self._parser.finalize()
        except FormParserError as exc:
            raise _invalid() from exc
        self.body_ended()
        if not self._ended:
            raise InvalidRequest("The body ends before its last boundary.", code="invalid_multipart")

    def _begin(self) -> None:
        self._field, self._value, self._headers = b"", b"", {}
        self.part_began()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        name = self._field.lower()
        if name in self._headers:
            raise InvalidRequest("A part of the form names a header twice.", code="invalid_multipart")
        self._headers[name] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if _times(b"name", self._headers.get(b"content-disposition")) > 1:
            raise InvalidRequest("A part of the form has two names.", code="invalid_multipart")
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self.part_named(name, self._headers, file=b"filename" in options)

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.part_data(data[start:end])

    def _end(self) -> None:
        self._ended = True


def _times(option: bytes, header: str | bytes | None) -> int:
    """How often a header names an option: of several, one reader takes the first and another the last."""
    said = header.encode("utf-8", "replace") if isinstance(header, str) else header or b""
    return len(re.findall(rb";\s*+%b\*?[0-9*]*+\s*+=" % option, said, re.IGNORECASE))


def _invalid() -> InvalidRequest:
    return InvalidRequest("The body is not valid multipart.", code="invalid_multipart")
