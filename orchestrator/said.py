"""What a relayed body says, for the policy and for the proof: its texts, its pictures, the hash of its messages."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from core.canonical import read_messages, read_responses
from core.control_tokens import COMMON, Tokens
from core.errors import InvalidRequest
from core.json_text import decoded, too_deep
from orchestrator.policy_floor import Subject
from orchestrator.requests import Peek

_OTHERS = ("prompt", "suffix", "tools", "documents", "chat_template_kwargs", "previous_input_messages")
_others = attrgetter(*_OTHERS)
_WHOLE_TEXTS = frozenset(("prompt", "suffix"))  # a completion's: the whole text for the model, the caller's own
MAX_DEPTH = 100
ROLES = frozenset(("system", "user", "assistant", "tool", "developer", "function"))
_USUAL_KEYS = frozenset(("role", "type", "content", "text", "name", "parameters", "properties", "description"))
_FILES = frozenset(("url", "image_url", "data", "file_data", "audio_url", "video_url"))
_REAL = Subject(real=True)
_NOBODY = Subject()


@dataclass
class Said:
    """`unread` names a field that holds no text and so cannot be checked (token ids, embeddings)."""

    texts: list[str] = field(default_factory=list)
    messages_sha256: str | None = None
    subject: Subject = _NOBODY
    unread: str | None = None


def read(found: Peek, tokens: Tokens = COMMON, *, responses: bool = False) -> Said:
    """Everything a body says; `responses`: a body of /v1/responses. `tokens` are the asked model's control tokens.

    Raises InvalidRequest: `control_token` where a message would forge a turn, `json_too_deep`. A completion's `prompt`
    may hold control tokens: it is the whole text for the model, and the caller's own.
    """
    try:
        return _read(found, tokens, responses)
    except RecursionError as exc:
        raise too_deep() from exc


def _read(found: Peek, tokens: Tokens, responses: bool) -> Said:
    said = Said()
    if responses and found.input:
        messages, said.messages_sha256 = read_responses(found.input, found.instructions)
        _collect(messages, said)
        no_forged_turn(tokens.find(messages), "input")
    elif found.messages:
        messages, said.messages_sha256, plain = read_messages(found.messages)
        if plain:
            said.texts = [
                text for message in messages for name, text in message.items() if name != "role" or text not in ROLES
            ]
            said.texts += set().union(*messages) - _USUAL_KEYS
            no_forged_turn(next(filter(None, map(tokens.find_in_text, said.texts)), None), "messages")
        else:
            _collect(messages, said)
            no_forged_turn(tokens.find(messages), "messages")
    for name, raw in zip(_OTHERS, _others(found), strict=True):
        if raw:
            value = decoded(raw)
            _collect(value, said)
            if name not in _WHOLE_TEXTS:
                no_forged_turn(tokens.find(value), name)
            elif _holds_numbers(value):
                said.unread = name
    if bytes(found.prompt_embeds) not in (b"", b"null"):
        said.unread = "prompt_embeds"
    return said


def no_forged_turn(forged: str | None, param: str) -> None:
    if forged:
        raise InvalidRequest(f"`{param}` holds the control token {forged!r}.", param=param, code="control_token")


def strings(value: Any, key: str = "", depth: int = 0) -> Iterator[str]:
    """Every string of a JSON value that a model may be shown: names of fields too, embedded files not.

    Raises InvalidRequest where it nests deeper than MAX_DEPTH: each level hands on all that is below it.
    """
    if depth > MAX_DEPTH:
        raise too_deep()
    if isinstance(value, str):
        if not (key in _FILES and value.startswith("data:")) and not (key == "role" and value in ROLES):
            yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in _USUAL_KEYS and name not in _FILES:
                yield name
            yield from strings(inner, name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, key, depth + 1)


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
