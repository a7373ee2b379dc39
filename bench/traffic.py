"""What is sent and answered: one chat request, as JSON or as a stream of 22 events, evenly paced or not."""

import json
from typing import Literal

Kind = Literal["json", "sse", "sse-paced"]

EVENTS = 22
GAP_SECONDS = 0.001
MODEL, PACED_MODEL = "bench", "bench-paced"

_SENTENCE = "The capital of France is Paris , and it has been so for the most part of a thousand years ."
_ENVELOPE = {"id": "chatcmpl-7d1f", "created": 1767225600, "model": MODEL}
_MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant. Answer in one or two short sentences."},
    {"role": "user", "content": "Question 00000000: what is the capital of France, and since when has it been?"},
]
NUMBER = b"00000000"
"""In the body; the load generator counts here, so that no two requests say the same and nothing is cached whole."""


def request_body(kind: Kind) -> bytes:
    """The caller's JSON."""
    body = {"model": PACED_MODEL if kind == "sse-paced" else MODEL, "messages": _MESSAGES, "temperature": 0.7}
    if kind != "json":
        body["stream"] = True
    return json.dumps({**body, "max_tokens": 64}).encode()


def completion() -> bytes:
    """The engine's whole answer."""
    message = {"role": "assistant", "content": _SENTENCE}
    usage = {"prompt_tokens": 41, "completion_tokens": 20, "total_tokens": 61}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return json.dumps({**_ENVELOPE, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def events(*, usage: bool = False) -> list[bytes]:
    """The engine's stream as vLLM writes it: EVENTS events, the last two the finish reason and [DONE]. With `usage`
    each states it, and one more all of it."""
    words = _SENTENCE.split(" ")[: EVENTS - 2]
    assert len(words) == EVENTS - 2
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": f"{word} "}, None) for word in words]
    choices = [{"index": 0, "delta": d, "finish_reason": why} for d, why in [*deltas, ({}, "stop")]]
    envelope = {**_ENVELOPE, "object": "chat.completion.chunk"}
    chunks = [{**envelope, "choices": [c], **(_usage(n) if usage else {})} for n, c in enumerate(choices, 1)]
    last = [{**envelope, "choices": [], **_usage(len(choices))}] if usage else []
    written = [json.dumps(chunk, separators=(",", ":")) for chunk in [*chunks, *last]]
    return [f"data: {chunk}\n\n".encode() for chunk in [*written, "[DONE]"]]


def _usage(answered: int) -> dict[str, dict[str, int]]:
    return {"usage": {"prompt_tokens": 41, "total_tokens": 41 + answered, "completion_tokens": answered}}
