"""What the gateway reads of a body, and the one field it may rewrite. The rest passes as bytes."""

import json
import re
from typing import Any

import msgspec

from core.errors import InvalidRequest
from core.json.text import NOT_JSON, too_deep
from core.parsing import parse
from core.wire.images import PicturesAsked

_BLANK = re.compile(r"[ \t\n\r]*").match
_decode_value = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode  # a number's size is not our concern


class StoredPrompt(msgspec.Struct):
    """A recipe by name, in the shape of OpenAI's stored prompts. `version` is a label (`production`) or a number."""

    id: str
    version: str = "production"
    variables: dict[str, Any] = {}


class _PromptFields(msgspec.Struct):
    """The same as SDKs send it: what is not given may be null."""

    id: str
    version: str | None = None
    variables: dict[str, Any] | None = None


class Body:
    """What a caller sent and a worker is to get. `read` is JSON to decide by: here the same bytes. `heavy`: reading it
    takes so long that it is done off the loop."""

    __slots__ = ("heavy", "sent")

    def __init__(self, sent: bytes, *, heavy: bool = False) -> None:
        self.sent = sent
        self.heavy = heavy

    @property
    def read(self) -> bytes:
        return self.sent

    def with_text(self, name: str, value: str) -> "Body":
        """The same with another text under this name; nothing else is touched."""
        return Body(with_field(self.sent, name, value), heavy=self.heavy)

    def pictures(self) -> PicturesAsked:
        """What it asks for, where it is one for pictures. Raises InvalidRequest."""
        return parse(PicturesAsked, self.sent)


class Peek(msgspec.Struct):
    """What routing reads of a body. A caller's `chat_template` would replace the model's own: it is refused. So is what
    tells an engine from which host to fetch another's cache: null is all that may stand there."""

    model: str | None = None
    prompt: msgspec.Raw = msgspec.Raw()
    chat_template: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    documents: msgspec.Raw = msgspec.Raw()
    n: msgspec.Raw = msgspec.Raw()
    stream: msgspec.Raw = msgspec.Raw()
    stream_options: msgspec.Raw = msgspec.Raw()
    kv_transfer_params: None = None
    ec_transfer_params: None = None


_REFUSED = re.compile(r"at `\$\.([ek][cv]_transfer_params)`$").search
_peek = msgspec.json.Decoder(Peek).decode
_stored = msgspec.json.Decoder(_PromptFields).decode


def peek(body: bytes) -> Peek:
    """Raises InvalidRequest: not JSON, not an object, a field of the wrong type, or a refused field."""
    try:
        found = _peek(body)
    except msgspec.ValidationError as exc:
        if refused := _REFUSED(str(exc)):
            raise InvalidRequest(f"`{refused[1]}` may not be sent.", param=refused[1], code="field_refused") from exc
        raise InvalidRequest(f"The body is not as it should be: {exc}", code="invalid_body") from exc
    except NOT_JSON as exc:
        raise InvalidRequest("The body is not valid JSON.", code="json_invalid") from exc
    except RecursionError as exc:
        raise too_deep() from exc
    if bytes(found.chat_template) not in (b"", b"null"):
        raise InvalidRequest("`chat_template` may not be sent.", param="chat_template", code="field_refused")
    _without_nul(found.model or "", "model")
    return found


def _without_nul(name: str, param: str) -> None:
    """Postgres keeps no NUL character, and nothing is called so."""
    if "\0" in name:
        raise InvalidRequest(f"`{param}` holds a NUL character.", param=param, code="invalid_name")


def stored_prompt(found: Peek) -> StoredPrompt | None:
    """The recipe that a body names, if its `prompt` is an object. Raises InvalidRequest."""
    raw = found.prompt
    if not bytes(raw).startswith(b"{"):
        return None
    try:
        sent = _stored(raw)
    except NOT_JSON as exc:
        raise InvalidRequest(f"prompt: {exc}", param="prompt", code="invalid_prompt") from exc
    _without_nul(sent.id, "prompt.id")
    _without_nul(sent.version or "", "prompt.version")
    return StoredPrompt(sent.id, sent.version or "production", sent.variables or {})


class _Hints(msgspec.Struct):
    """What says which conversation a body belongs to."""

    prompt_cache_key: Any = None
    user: Any = None


class _Message(msgspec.Struct):
    role: Any = None


MOST_LEADING, MOST_LEADING_BYTES = 1000, 64 << 10  # messages, and bytes of one, that tell conversations apart

_hints = msgspec.json.Decoder(_Hints).decode
_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode
_message = msgspec.json.Decoder(_Message).decode


def affinity(found: Peek, body: bytes, session: str | None) -> bytes:
    """What requests share that should meet the same prefix cache: the session, `prompt_cache_key`, `user`, else the
    leading messages up to the first that the user wrote."""
    if session:
        return session.encode()
    try:
        hints = _hints(body)
    except NOT_JSON:  # not our concern either
        return _leading(found)
    for hint in (hints.prompt_cache_key, hints.user):
        if isinstance(hint, str) and hint:
            return hint.encode()
    return _leading(found)


def _leading(found: Peek) -> bytes:
    """Of what is no list of messages, its first kilobyte."""
    try:
        messages = _messages(found.messages)
        leading = []
        for message in messages[:MOST_LEADING]:
            leading.append(bytes(memoryview(message)[:MOST_LEADING_BYTES]))
            if _message(message).role == "user":
                break
        return b"".join(leading)
    except msgspec.DecodeError:  # not our concern: the engine will say what is wrong
        return bytes(found.prompt or found.input)[:1024]


def with_field(body: bytes, name: str, value: str) -> bytes:
    """The same bytes with every top-level value of a field replaced; nothing else is touched."""
    return with_value(body, name, json.dumps(value).encode())


def with_value(body: bytes, name: str, value: bytes) -> bytes:
    """The same with a value that is JSON already."""
    for _, start, end in reversed(_spans(body, name)):
        body = body[:start] + value + body[end:]
    return body


def with_member(body: bytes, name: str, value: bytes) -> bytes:
    """The same object with one more member, the first. It had none of that name, and has others."""
    at = body.index(b"{") + 1
    return body[:at] + b'"%b":%b,' % (name.encode(), value) + body[at:]


def split_at_field(body: bytes, name: str) -> tuple[bytes, bytes]:
    """What stands before and what stands after a top-level member, without the comma between."""
    spans = _spans(body, name)
    if not spans:
        return body, b""
    start, _, end = spans[-1]
    before, after = body[:start].rstrip(), body[end:].lstrip()
    if before.endswith(b","):
        return before[:-1], after
    return before, after.removeprefix(b",").lstrip()


def _spans(body: bytes, name: str) -> list[tuple[int, int, int]]:
    """Where each top-level member of that name begins, where its value does and where it ends."""
    text = body.decode("latin-1")  # one character a byte, so positions agree; JSON's own characters are ASCII
    try:
        return [(member, start, end) for key, member, start, end in _top_level(text) if key == name]
    except RecursionError as exc:
        raise too_deep() from exc


def _top_level(text: str) -> list[tuple[str, int, int, int]]:
    """(key, where it begins, start, end) of each value of a JSON object that is known to be valid."""
    found = []
    at = _skip(text, 0) + 1
    while text[at := _skip(text, at)] != "}":
        member = at
        key, at = _decode_value(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, end = _decode_value(text, start)
        found.append((key, member, start, end))
        at = _skip(text, end)
        if text[at] == ",":
            at += 1
    return found


def _skip(text: str, at: int) -> int:
    blank = _BLANK(text, at)
    assert blank is not None
    return blank.end()
