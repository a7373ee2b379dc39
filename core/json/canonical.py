"""The hash of messages: sha256 of their RFC 8785 canonical JSON, computed alike by who sends and who receives them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import rfc8785

from core.errors import InvalidRequest
from core.json.text import NOT_JSON, decoded

# Messages of plain strings need no number formatting: msgspec's sorted output of them is canonical, 30 times faster.
_plain = msgspec.json.Decoder(list[dict[str, str]]).decode
_sorted = msgspec.json.Encoder(order="sorted").encode


def sha256(value: Any) -> str:
    """Of any JSON value. Raises rfc8785.CanonicalizationError for what JSON cannot carry (NaN, integers over 2^53)."""
    pieces: list[bytes] = []
    try:
        _add_pieces(value, pieces)
    except UnicodeEncodeError as exc:
        raise rfc8785.CanonicalizationError("half a surrogate pair") from exc
    return hashlib.sha256(b"".join(pieces)).hexdigest()


def _add_pieces(value: Any, pieces: list[bytes]) -> None:
    """What rfc8785.dumps gives, which takes six times as long for a picture and holds all threads meanwhile: texts are
    msgspec's, numbers its own."""
    if isinstance(value, str):
        pieces.append(msgspec.json.encode(value))
    elif isinstance(value, Mapping):
        opening = b"{"
        for name in sorted(value, key=lambda name: name.encode("utf-16be")):
            pieces += opening, msgspec.json.encode(name), b":"
            _add_pieces(value[name], pieces)
            opening = b","
        pieces.append(b"}" if value else b"{}")
    elif isinstance(value, list | tuple):
        opening = b"["
        for inner in value:
            pieces.append(opening)
            _add_pieces(inner, pieces)
            opening = b","
        pieces.append(b"]" if value else b"[]")
    else:
        pieces.append(rfc8785.dumps(value))


def sha256_of_fields(fields: Mapping[str, Any], param: str = "") -> str:
    """Of an object that a caller sent under the name `param`. Raises InvalidRequest, which names the field at fault."""
    try:
        return sha256(dict(fields))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as exc:
        at_fault = next((name for name, value in fields.items() if not _is_canonical(value)), "")
        param = ".".join(filter(None, (param, at_fault)))
        raise InvalidRequest(
            f"`{param}` has no canonical form in JSON: it holds a number of 2^53 or beyond, or half a surrogate pair.",
            param=param,
            code="no_canonical_form",
        ) from exc


def _is_canonical(value: Any) -> bool:
    try:
        rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError):
        return False
    return True


def sha256_of_any(value: Any) -> str:
    """Of any decoded JSON, also of what has no canonical form: to tell whether the same is sent again."""
    try:
        return sha256(value)
    except rfc8785.CanonicalizationError:
        return hashlib.sha256(_sorted(value)).hexdigest()


def messages_sha256(messages: Any) -> str | None:
    """Of decoded messages; None where they have no canonical form."""
    try:
        if isinstance(messages, list) and all(map(_is_plain, messages)):
            return _plain_sha256(messages)
        return sha256(messages)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError):
        return None


def read_messages(raw: bytes | msgspec.Raw) -> tuple[Any, str | None, bool]:
    """Messages of a body, their hash, and whether they are plain: objects of strings. Raises InvalidRequest."""
    try:
        messages = _plain(raw)
    except NOT_JSON:
        other = decoded(raw)
        return other, messages_sha256(other), False
    if "".join(set().union(*messages)).isascii():
        return messages, _plain_sha256(messages), True
    return messages, messages_sha256(messages), True


def responses_messages(given: Any, instructions: Any) -> Any:
    """The messages that the `input` and `instructions` of /v1/responses stand for, as an engine makes them of both."""
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if isinstance(instructions, str) and instructions and isinstance(messages, list):
        return [{"role": "system", "content": instructions}, *messages]
    return messages


def read_responses(given: bytes | msgspec.Raw, instructions: bytes | msgspec.Raw) -> tuple[Any, str | None]:
    """Messages of a /v1/responses body, and their hash. Raises InvalidRequest."""
    messages = responses_messages(decoded(given), decoded(instructions) if instructions else None)
    return messages, messages_sha256(messages)


def _plain_sha256(messages: list[dict[str, str]]) -> str:
    return hashlib.sha256(_sorted(messages)).hexdigest()


def _is_plain(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    return all(key.isascii() and type(value) is str for key, value in message.items())
