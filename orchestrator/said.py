"""What a relayed body says, for the policy and for the proof: its texts, its pictures, the hash of its messages."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec

from core.canonical import read_messages
from core.errors import InvalidRequest
from orchestrator.policy_floor import Subject
from orchestrator.requests import Peek
from prompts import control_tokens

_OTHERS = ("prompt", "input", "instructions", "suffix", "tools", "documents")
_others = attrgetter(*_OTHERS)
_REAL = Subject(real=True)
_NOBODY = Subject()
_decode = msgspec.json.Decoder().decode


@dataclass
class Said:
    """`unread` names a field that holds no text and so cannot be checked (token ids, embeddings)."""

    texts: list[str] = field(default_factory=list)
    messages_sha256: str | None = None
    subject: Subject = _NOBODY
    unread: str | None = None


def read(found: Peek) -> Said:
    """Everything a body says. Raises InvalidRequest (`control_token`) where a message would forge a turn.

    A completion's `prompt` may hold control tokens: it is the whole text for the model, and the caller's own.
    """
    said = Said()
    if found.messages:
        messages, said.messages_sha256, plain = read_messages(found.messages)
        if plain:
            said.texts = [text for message in messages for name, text in message.items() if name != "role"]
        else:
            _collect(messages, said)
        forged = next(filter(None, map(control_tokens.find_in_text, said.texts)), None)
        if forged:
            raise InvalidRequest(
                f"A message holds the control token {forged!r}.", param="messages", code="control_token"
            )
    for name, raw in zip(_OTHERS, _others(found), strict=True):
        if raw:
            value = _decode(raw)
            _collect(value, said)
            if name in ("prompt", "input") and _holds_numbers(value):
                said.unread = name
    if bytes(found.prompt_embeds) not in (b"", b"null"):
        said.unread = "prompt_embeds"
    return said


def strings(value: Any) -> Iterator[str]:
    """Every string of a JSON value, keys and embedded files left out."""
    if isinstance(value, str):
        if not value.startswith("data:"):
            yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("role", "type"):
                yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def _collect(value: Any, said: Said) -> None:
    said.texts.extend(strings(value))
    if isinstance(value, list) and any(_has_picture(inner) for inner in value):
        said.subject = _REAL


def _has_picture(message: Any) -> bool:
    """A picture sent along may show somebody: it makes the subject real."""
    content = message.get("content") if isinstance(message, dict) else None
    return isinstance(content, list) and any(
        isinstance(part, dict) and ("image" in str(part.get("type")) or "video" in str(part.get("type")))
        for part in content
    )


def _holds_numbers(value: Any) -> bool:
    """Whether a prompt is given as token ids."""
    return isinstance(value, list) and any(isinstance(item, int | list) for item in value)
