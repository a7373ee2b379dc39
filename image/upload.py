"""The form of POST /v1/images/edits: texts, pictures and a mask."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.errors import InvalidRequest
from core.http.multipart import Parts, boundary_of

MAX_IMAGES = 16
_IMAGE_FIELDS = frozenset({"image", "image[]"})
_MAX_FIELDS = 64


@dataclass
class Form:
    fields: dict[str, str] = field(default_factory=dict)
    images: list[bytes] = field(default_factory=list)
    mask: bytes | None = None


def parse_form(content_type: str | None, body: bytes) -> Form:
    """Raises InvalidRequest naming the field that cannot be taken."""
    parts = _Upload(boundary_of(content_type))
    parts.feed(body)
    parts.finish()
    return parts.form


class _Upload(Parts):
    def __init__(self, boundary: bytes) -> None:
        super().__init__(boundary)
        self.form = Form()
        self._parts = 0

    def part_began(self) -> None:
        self._parts += 1
        if self._parts > _MAX_FIELDS + MAX_IMAGES + 1:
            raise InvalidRequest("The form has too many parts.", code="invalid_multipart")

    def part_named(self, name: str, headers: dict[bytes, bytes], *, file: bool) -> None:
        self._name, self._content = name, bytearray()

    def part_data(self, data: bytes) -> None:
        self._content += data

    def part_ended(self) -> None:
        if self._name in _IMAGE_FIELDS:
            self._image()
        elif self._name == "mask":
            self._only_once("mask", self.form.mask is not None)
            self.form.mask = bytes(self._content)
        else:
            self._text(self._name[:64])

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
