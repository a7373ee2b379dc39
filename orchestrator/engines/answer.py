"""What an engine's answer says: its text, its prompt's token ids and its usage, in the shapes of chat and responses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from core.untrusted import decoded
from core.usage import Usage, stated


@dataclass
class AnswerParts:
    """What is read of an answer, or of one event of its stream: its text, the prompt's token ids, and what it took."""

    text: str | None = None
    token_ids: list[int] | None = None
    usage: Usage | None = None


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Delta | None = None
    delta: _Delta | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    prompt_token_ids: list[int] | None = None
    usage: msgspec.Raw = msgspec.Raw()


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
    usage: msgspec.Raw = msgspec.Raw()


class _ResponseEvent(msgspec.Struct):
    type: str = ""
    delta: Any = None
    response: _Response | None = None


def _of_completion(data: bytes) -> AnswerParts:
    """Of its first choice. Raises Upstream, like its brothers below."""
    answer = decoded(data, _Completion)
    first = next((choice for choice in answer.choices if choice.index == 0), _Choice())
    message = first.message or first.delta
    return AnswerParts(message.content if message else None, answer.prompt_token_ids, _usage(answer.usage))


def _of_response(data: bytes) -> AnswerParts:
    """All its output texts together, as the SDK's `output_text` gives them."""
    answer = decoded(data, _Response)
    parts = [part for item in answer.output if item.type == "message" for part in item.content or ()]
    text = "".join(part.text for part in parts if part.type == "output_text")
    return AnswerParts(text, _tokens(answer), _usage(answer.usage))


def _of_response_event(data: bytes) -> AnswerParts:
    event = decoded(data, _ResponseEvent)
    text = event.delta if event.type == "response.output_text.delta" and isinstance(event.delta, str) else None
    return AnswerParts(text, _tokens(event.response) if event.response else None)


def _usage(raw: msgspec.Raw) -> Usage | None:
    return stated(bytes(raw)) if bytes(raw) else None


def _tokens(response: _Response) -> list[int] | None:
    """The token ids of the one prompt; none where the engine went through several."""
    raw = response.input_messages or []
    return raw[0].tokens if len(raw) == 1 else None


@dataclass(frozen=True)
class Reader:
    """How one API's answers are read. `added` are the fields that only the proof asked for."""

    whole: Callable[[bytes], AnswerParts]
    event: Callable[[bytes], AnswerParts]
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
