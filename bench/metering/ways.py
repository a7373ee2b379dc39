"""The ways of asking: routes × streaming × options × languages × cut short."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

CHAT, TEXT, RESPONSES, GENERATE = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/generate"
SAID = {
    "English": "Tell me of a small red boat on a quiet lake.",
    "digits": "Count: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15",
    "Chinese": "请告诉我一只安静湖上的小红船的故事。",
    "Arabic": "حدثني عن قارب أحمر صغير في بحيرة هادئة.",
    "emoji": "🚤🌊🌅 and a tale of it \U0001f9d1\u200d\U0001f33e please",
}
STREAMS: dict[str, dict[str, Any]] = {
    "whole": {},
    "stream": {"stream": True},
    "stream, its sum": {"stream": True, "stream_options": {"include_usage": True}},
    "stream, each": {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
}
PERSON = {
    "type": "object",
    "properties": {"usage": {"type": "object", "properties": {"input_tokens": {"type": "integer"}}}},
}
TOOL = {"type": "function", "function": {"name": "save", "description": "Save it.", "parameters": PERSON}}
FLAT_TOOL = {"type": "function", "name": "save", "description": "Save it.", "parameters": PERSON}
CHAT_OPTIONS: dict[str, dict[str, Any]] = {
    "n": {"n": 3, "temperature": 1.0, "seed": 3},
    "a stop": {"stop": ["a"]},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "token ids": {"return_token_ids": True},
    "the prompt's text": {"return_prompt_text": True},
    "a tool": {"tools": [TOOL], "tool_choice": "auto"},
    "max_completion_tokens before max_tokens": {"max_completion_tokens": 4, "max_tokens": 40},
    "fields that it ignores": {"max_output_tokens": 1},
    "a number as a text": {"max_tokens": "5", "n": "2", "temperature": 1.0, "seed": 1},
}
TEXT_OPTIONS: dict[str, dict[str, Any]] = {
    "n": {"n": 2, "temperature": 1.0, "seed": 3},
    "several prompts": {"prompt": list(SAID.values())[:3]},
    "several prompts, n": {"prompt": list(SAID.values())[:2], "n": 2, "temperature": 1.0, "seed": 3},
    "echo": {"echo": True},
    "no limit": {"max_tokens": None},
    "fields that it ignores": {"max_completion_tokens": 1},
}
RESPONSES_OPTIONS: dict[str, dict[str, Any]] = {
    "a user of 4,000 characters": {"user": "u" * 4000},
    "its messages": {"enable_response_messages": True},
    "a tool": {"tools": [FLAT_TOOL], "tool_choice": "auto"},
}
TWO = {"n": 2, "temperature": 1.0, "seed": 3}
RECIPE = {"prompt": {"id": "chat_conversation"}}


@dataclass(frozen=True)
class Way:
    """`leaves`: its caller, after so many events."""

    name: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    leaves: int | None = None

    @property
    def cut(self) -> bool:
        return self.leaves is not None or "x-request-timeout" in self.headers


def _turns(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def ways(model: str, *, tokens: int = 24, longest: int = 400) -> Iterator[Way]:
    """`tokens`: of an answer; `longest`: of one that is cut short."""
    chat: dict[str, Any] = {"model": model, "max_tokens": tokens, "temperature": 0}
    text: dict[str, Any] = dict(chat)
    responses: dict[str, Any] = {"model": model, "max_output_tokens": tokens, "temperature": 0}
    english = SAID["English"]
    for language, said in SAID.items():
        for how, stream in STREAMS.items():
            yield Way(f"chat, {language}, {how}", CHAT, {**chat, "messages": _turns(said), **stream})
            if language in ("English", "Chinese"):
                yield Way(f"completion, {language}, {how}", TEXT, {**text, "prompt": said, **stream})
    for how in ("whole", "stream"):
        stream = STREAMS[how]
        for name, options in CHAT_OPTIONS.items():
            yield Way(f"chat, {name}, {how}", CHAT, {**chat, "messages": _turns(english), **stream, **options})
        for name, options in TEXT_OPTIONS.items():
            yield Way(f"completion, {name}, {how}", TEXT, {**text, "prompt": english, **stream, **options})
        for language, said in SAID.items():
            yield Way(f"response, {language}, {how}", RESPONSES, {**responses, "input": said, **stream})
        for name, options in RESPONSES_OPTIONS.items():
            yield Way(f"response, {name}, {how}", RESPONSES, {**responses, "input": english, **stream, **options})
        proved = {"x-prove": "tokens"}
        yield Way(f"chat, proved, {how}", CHAT, {**chat, "messages": _turns(english), **stream}, proved)
        yield Way(f"response, proved, {how}", RESPONSES, {**responses, "input": english, **stream}, proved)
        yield Way(f"recipe, response, {how}", RESPONSES, {**RECIPE, "input": english, **stream})
    yield Way("chat, the prompt's logprobs", CHAT, {**chat, "messages": _turns(english), "prompt_logprobs": 1})
    yield Way("older /generate", GENERATE, {"model": model, "messages": _turns(english), "max_tokens": tokens})
    for how, stream in STREAMS.items():
        for language in ("English", "Chinese"):
            body = {**RECIPE, "model": model, "messages": _turns(SAID[language]), "max_tokens": tokens, **stream}
            yield Way(f"recipe, {language}, {how}", CHAT, body)
    yield from _cut(model, longest)


def _cut(model: str, tokens: int) -> Iterator[Way]:
    """Streams whose caller leaves or has no more time."""
    long: dict[str, Any] = {"model": model, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
    turns = _turns(SAID["digits"])
    for events in (1, 5, 12):
        yield Way(f"chat, left after {events} events", CHAT, {**long, "messages": turns}, leaves=events)
        yield Way(f"completion, left after {events} events", TEXT, {**long, "prompt": SAID["Chinese"]}, leaves=events)
    yield Way("chat, n, left after 9 events", CHAT, {**long, "messages": turns, **TWO}, leaves=9)
    each = STREAMS["stream, each"]
    yield Way("chat, each, left after 4 events", CHAT, {**long, **each, "messages": turns}, leaves=4)
    yield Way("recipe, left after 4 events", CHAT, {**RECIPE, **long, "messages": turns}, leaves=4)
    soon = {"x-request-timeout": "1.5"}
    yield Way("chat, out of time within its stream", CHAT, {**long, "messages": turns}, soon)
    yield Way("completion, out of time within its stream", TEXT, {**long, "prompt": SAID["English"]}, soon)
    whole = {**long, "stream": False}
    yield Way("chat, whole, out of time", CHAT, {**whole, "messages": turns}, soon)
    yield Way("response, left after 4 events", RESPONSES, _response(model, tokens), leaves=4)


def _response(model: str, tokens: int) -> dict[str, Any]:
    body = {"model": model, "max_output_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
    return {**body, "input": SAID["English"]}
