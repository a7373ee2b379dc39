"""A form on its way to an image worker: read for its texts, passed on as it came.

What is judged must be what the worker reads, so whatever two readers could understand differently is refused: a text
given twice, a text that is a file, another charset, an encoded part.
"""

from collections.abc import Callable

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from core.errors import InvalidRequest
from orchestrator.requests import Body

MAX_PARTS = 96
MAX_TEXT = 256 << 10  # bytes of one text
READ = frozenset(("model", "prompt", "n", "size", "steps", "user", "stream"))
"""What the gateway decides by; every other part passes unread."""
_PLAIN = frozenset((b"", b"7bit", b"8bit", b"binary"))


class FormBody(Body):
    """A multipart body. `read` is what its texts would be as JSON."""

    __slots__ = ("_boundary", "_texts")

    def __init__(self, sent: bytes, boundary: bytes, texts: "dict[str, _Text]") -> None:
        super().__init__(sent)
        self._boundary = boundary
        self._texts = texts

    @property
    def read(self) -> bytes:
        numbers = {name: int(text.value) for name, text in self._texts.items() if _is_number(name, text.value)}
        return msgspec.json.encode({name: text.value for name, text in self._texts.items()} | numbers)

    def with_text(self, name: str, value: str) -> "FormBody":
        """The same form with another text under this name, which it has. Raises InvalidRequest where the text cannot
        stand there: it holds the form's own boundary."""
        parts = (b"\r\n" + self.sent).split(b"\r\n--" + self._boundary)
        at = self._texts[name].part + 1  # what comes before the first boundary is no part
        head, _, _ = parts[at].partition(b"\r\n\r\n")
        parts[at] = head + b"\r\n\r\n" + value.encode()
        changed = _read((b"\r\n--" + self._boundary).join(parts)[2:], self._boundary)
        wanted = {each: text.value for each, text in self._texts.items()} | {name: value}
        if {each: text.value for each, text in changed._texts.items()} != wanted:
            raise InvalidRequest("The form's boundary stands in its texts.", code="invalid_multipart")
        return changed


class _Text(msgspec.Struct):
    """A text, and which of the form's parts it is."""

    value: str
    part: int


def read(content_type: bytes, sent: bytes) -> FormBody:
    """A form for an image worker. Raises InvalidRequest naming what cannot be taken."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 256:
        raise InvalidRequest("The body must be multipart/form-data with a boundary.", code="invalid_content_type")
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise InvalidRequest("A form's texts are UTF-8.", code="invalid_content_type")
    return _read(sent, boundary)


def _read(sent: bytes, boundary: bytes) -> FormBody:
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())  # type: ignore[arg-type]  # of bound methods
        parser.write(sent)
        parser.finalize()
    except FormParserError as exc:
        raise InvalidRequest("The body is not valid multipart.", code="invalid_multipart") from exc
    if not collector.ended:
        raise InvalidRequest("The body ends before its last boundary.", code="invalid_multipart")
    return FormBody(sent, boundary, collector.texts)


class _Collector:
    """The parser's callbacks."""

    def __init__(self) -> None:
        self.texts: dict[str, _Text] = {}
        self.ended = False
        self._part = -1
        self._name = ""
        self._content: bytearray | None = None
        self._field = self._value = b""
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self.begin,
            "on_header_field": self.header_field,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_headers_finished": self.headers_finished,
            "on_part_data": self.data,
            "on_part_end": self.part_end,
            "on_end": self.end,
        }

    def begin(self) -> None:
        self._part += 1
        if self._part >= MAX_PARTS:
            raise InvalidRequest(f"A form has at most {MAX_PARTS} parts.", code="invalid_multipart")
        self._field, self._value, self._headers = b"", b"", {}

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        name = self._field.lower()
        if name in self._headers:
            raise InvalidRequest("A part of the form names a header twice.", code="invalid_multipart")
        self._headers[name] = self._value
        self._field = self._value = b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._content = bytearray() if self._name in READ else None
        if self._content is None:
            return
        if self._name in self.texts:
            raise _refused(self._name, "is given twice.")
        if b"filename" in options:
            raise _refused(self._name, "is a file, and must be a text.")
        if self._headers.get(b"content-transfer-encoding", b"").strip().lower() not in _PLAIN:
            raise _refused(self._name, "is encoded, and must be a plain text.")

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._content is not None:
            self._content += data[start:end]
            if len(self._content) > MAX_TEXT:
                raise _refused(self._name, f"is longer than {MAX_TEXT} bytes.")

    def part_end(self) -> None:
        if self._content is None:
            return
        try:
            self.texts[self._name] = _Text(self._content.decode(), self._part)
        except UnicodeDecodeError as exc:
            raise _refused(self._name, "is not UTF-8.") from exc

    def end(self) -> None:
        self.ended = True


def _is_number(name: str, value: str) -> bool:
    return name in ("n", "steps") and value.isascii() and value.isdigit() and len(value) < 10


def _refused(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{name} {what}", param=name, code="invalid_value")
