"""A form on its way to an image or a selfie worker: read for its texts, passed on as it came.

What is judged must be what the worker reads, so whatever two readers could understand differently is refused: a text
given twice, a text that is a file, a file that is a text, another charset, an encoded part.
"""

import msgspec
from python_multipart.multipart import parse_options_header

from core.errors import InvalidRequest
from core.http.multipart import Parts, boundary_of
from core.parsing import parse_strings
from core.wire.images import PicturesAsked
from orchestrator.gateway.body import Body

MAX_PARTS = 96
MAX_TEXT = 256 << 10  # bytes of one text
FILES = frozenset(("image", "image[]", "mask", "input_reference"))
"""What may be a file: it holds a picture. Whatever else comes is a text."""
JSON_FIELDS = frozenset(("messages", "schema", "sampling"))
"""Fields of a selfie's form whose text is JSON."""
UTF8 = frozenset((b"utf-8", b"utf8", b"us-ascii"))
CHARSET = "_charset_"
"""A field by which a form may name the charset of its texts."""
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
        return msgspec.json.encode(self.texts)

    @property
    def texts(self) -> dict[str, str]:
        return {name: text.value for name, text in self._texts.items()}

    def pictures(self) -> PicturesAsked:
        counted = {name: self._texts[name].value for name in PicturesAsked.model_fields if name in self._texts}
        return parse_strings(PicturesAsked, counted)

    def with_text(self, name: str, value: str) -> "FormBody":
        """The same form with another text under this name, which it has. Raises InvalidRequest where the text cannot
        stand there: it holds the form's own boundary."""
        parts = (b"\r\n" + self.sent).split(b"\r\n--" + self._boundary)
        at = self._texts[name].part + 1  # what comes before the first boundary is no part
        head, _, _ = parts[at].partition(b"\r\n\r\n")
        parts[at] = head + b"\r\n\r\n" + value.encode()
        changed = _read((b"\r\n--" + self._boundary).join(parts)[2:], self._boundary)
        if changed.texts != self.texts | {name: value}:
            raise InvalidRequest("The form's boundary stands in its texts.", code="invalid_multipart")
        return changed


class _Text(msgspec.Struct):
    """A text, and which of the form's parts it is."""

    value: str
    part: int


class SelfieForm(FormBody):
    """One about a selfie: a model will see its messages and, beside them, what else is said."""

    __slots__ = ()

    @property
    def read(self) -> bytes:
        """Raises InvalidRequest where a field that must be JSON is none."""
        fields = {name: _json(name, text) if name in JSON_FIELDS else text for name, text in self.texts.items()}
        messages = {"messages": fields.pop("messages")} if "messages" in fields else {}
        return msgspec.json.encode(messages | ({"documents": list(fields.values())} if fields else {}))


def _json(name: str, text: str) -> msgspec.Raw:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidRequest(f"{name}: not valid JSON.", param=name, code="json_invalid") from exc
    return msgspec.Raw(text.encode())


def read(content_type: bytes, sent: bytes, kind: type[FormBody] = FormBody) -> FormBody:
    """A form for a worker. Raises InvalidRequest naming what cannot be taken."""
    boundary = boundary_of(content_type)
    _, options = parse_options_header(content_type)
    if options.get(b"charset", b"utf-8").lower() not in UTF8:
        raise InvalidRequest("A form's texts are UTF-8.", code="invalid_content_type")
    return _read(sent, boundary, kind)


def _read(sent: bytes, boundary: bytes, kind: type[FormBody] = FormBody) -> FormBody:
    parts = _Texts(boundary)
    parts.feed(sent)
    parts.finish()
    return kind(sent, boundary, parts.texts)


class _Texts(Parts):
    def __init__(self, boundary: bytes) -> None:
        super().__init__(boundary)
        self.texts: dict[str, _Text] = {}
        self._part = -1
        self._name = ""
        self._content: bytearray | None = None

    def part_began(self) -> None:
        self._part += 1
        if self._part >= MAX_PARTS:
            raise InvalidRequest(f"A form has at most {MAX_PARTS} parts.", code="invalid_multipart")

    def part_named(self, name: str, headers: dict[bytes, bytes], *, file: bool) -> None:
        self._name, self._content = name, None
        if name in FILES:
            if not file:
                raise _refused(name, "is a text, and must be a file.")
            return
        if name in self.texts:
            raise _refused(name, "is given twice.")
        if file:
            raise _refused(name, "is a file, and must be a text.")
        if headers.get(b"content-transfer-encoding", b"").strip().lower() not in _PLAIN:
            raise _refused(name, "is encoded, and must be a plain text.")
        _, options = parse_options_header(headers.get(b"content-type"))
        if name == CHARSET or options.get(b"charset", b"utf-8").lower() not in UTF8:
            raise _refused(name, "names a charset: a form's texts are UTF-8.")
        self._content = bytearray()

    def part_data(self, data: bytes) -> None:
        if self._content is not None:
            self._content += data
            if len(self._content) > MAX_TEXT:
                raise _refused(self._name, f"is longer than {MAX_TEXT} bytes.")

    def part_ended(self) -> None:
        if self._content is None:
            return
        try:
            self.texts[self._name] = _Text(self._content.decode(), self._part)
        except UnicodeDecodeError as exc:
            raise _refused(self._name, "is not UTF-8.") from exc


def _refused(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{name} {what}", param=name, code="invalid_value")
