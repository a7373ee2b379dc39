"""A multipart form, collected in memory: a picture never becomes a temporary file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from core.errors import InvalidRequest

MAX_IMAGES = 16
if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_IMAGE_FIELDS = frozenset({"image", "image[]"})
_MAX_FIELDS = 64


@dataclass
class Form:
    fields: dict[str, str] = field(default_factory=dict)
    images: list[bytes] = field(default_factory=list)
    mask: bytes | None = None


def parse_form(content_type: str | None, body: bytes) -> Form:
    """Raises InvalidRequest naming the field that cannot be taken."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest("The body must be multipart/form-data.", code="invalid_content_type")
    collector = _Collector()
    try:
        parser = MultipartParser(options[b"boundary"], collector.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as exc:
        raise InvalidRequest("The body is not valid multipart.", code="invalid_multipart") from exc
    return collector.form


class _Collector:
    """The parser's callbacks."""

    def __init__(self) -> None:
        self.form = Form()
        self._parts = 0
        self._header = self._value = b""
        self._disposition = b""
        self._content = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_FIELDS + MAX_IMAGES + 1:
            raise InvalidRequest("The form has too many parts.", code="invalid_multipart")
        self._header = self._value = self._disposition = b""
        self._content = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name in _IMAGE_FIELDS:
            self._image()
        elif name == "mask":
            self._only_once("mask", self.form.mask is not None)
            self.form.mask = bytes(self._content)
        else:
            self._text(name[:64])

    def _image(self) -> None:
        if len(self.form.images) == MAX_IMAGES:
            raise InvalidRequest(f"At most {MAX_IMAGES} images.", param="image", code="too_many_images")
        self.form.images.append(bytes(self._content))

    def _text(self, name: str) -> None:
        self._only_once(name, name in self.form.fields)
        try:
            self.form.fields[name] = self._content.decode()
        except UnicodeDecodeError as exc:
            raise InvalidRequest(f"{name} is not UTF-8.", param=name, code="invalid_value") from exc

    def _only_once(self, name: str, known: bool) -> None:
        if known:
            raise InvalidRequest(f"{name} is given twice.", param=name, code="invalid_value")
