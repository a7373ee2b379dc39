"""What an engine's answer says: its text and its prompt's token ids, in the shapes of chat and of responses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from core.untrusted import decoded


@dataclass
class Found:
    """What is read of an answer, or of one event of its stream: its text, and the prompt's token ids."""

    text: str | None = None
    token_ids: list[int] | None = None


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Delta | None = None
    delta: _Delta | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    prompt_token_ids: list[int] | None = None


class _Text(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Item(msgspec.Struct):
    type: str = ""
    content: list[_Text] | None = None


class _Raw(msgspec.Struct):
    tokens: list[int] | None = None


class _Response(msgspec.Struct):
    output: list[_Item] = []
    input_messages: list[_Raw] | None = None


class _ResponseEvent(msgspec.Struct):
    type: str = ""
    delta: Any = None
    response: _Response | None = None


def _of_completion(data: bytes) -> Found:
    """Of its first choice. Raises Upstream, like its brothers below."""
    answer = decoded(data, _Completion)
    first = next((choice for choice in answer.choices if choice.index == 0), _Choice())
    said = first.message or first.delta
    return Found(said.content if said else None, answer.prompt_token_ids)


def _of_response(data: bytes) -> Found:
    """All its output texts together, as the SDK's `output_text` gives them."""
    answer = decoded(data, _Response)
    parts = [part for item in answer.output if item.type == "message" for part in item.content or ()]
    return Found("".join(part.text for part in parts if part.type == "output_text"), _tokens(answer))


def _of_response_event(data: bytes) -> Found:
    event = decoded(data, _ResponseEvent)
    said = event.delta if event.type == "response.output_text.delta" and isinstance(event.delta, str) else None
    return Found(said, _tokens(event.response) if event.response else None)


def _tokens(response: _Response) -> list[int] | None:
    """The token ids of the one prompt; none where the engine went through several."""
    raw = response.input_messages or []
    return raw[0].tokens if len(raw) == 1 else None


@dataclass(frozen=True)
class Reader:
    """How one API's answers are read. `added` are the fields that only the proof asked for."""

    whole: Callable[[bytes], Found]
    event: Callable[[bytes], Found]
    added: tuple[str, ...]

    def bare(self, body: bytes) -> bytes:
        """An answer, or an event's data, without what only the proof asked for."""
        if not any(b'"%b"' % name.encode() in body for name in self.added):
            return body
        answer: dict[str, Any] = msgspec.json.decode(body)  # it was read before: an object, its choices too
        for part in (answer, answer.get("response") or {}, *(answer.get("choices") or ())):
            for name in self.added:
                part.pop(name, None)
        return msgspec.json.encode(answer)


CHAT = Reader(_of_completion, _of_completion, ("prompt_token_ids", "token_ids"))
RESPONSES = Reader(_of_response, _of_response_event, ("input_messages", "output_messages"))
