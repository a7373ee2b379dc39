"""Answers in the shapes of OpenAI's API, as vLLM and the workers give them: what every fake here says them with."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import JSONResponse


def envelope(kind: str, model: str, number: int = 1) -> dict[str, Any]:
    """What stands around the choices of a completion; `kind` is `chat.completion`, `text_completion.chunk`, …."""
    return {"id": f"fake-{number}", "object": kind, "created": int(time.time()), "model": model}


def completion(model: str, text: str, **more: Any) -> dict[str, Any]:
    """One chat answer; `more` stands beside its choices, such as its usage."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {**envelope("chat.completion", model), "choices": [choice], **more}


def chunk(model: str, text: str, **more: Any) -> dict[str, Any]:
    """One event of a chat answer's stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {**envelope("chat.completion.chunk", model), "choices": [choice], **more}


def response(model: str, texts: Sequence[str], number: int = 1, **more: Any) -> dict[str, Any]:
    """An answer of /v1/responses: one message of these texts."""
    parts: list[dict[str, Any]] = [
        {"type": "output_text", "text": text, "annotations": [], "logprobs": None} for text in texts
    ]
    item = {"id": f"msg-{number}", "type": "message", "role": "assistant", "status": "completed", "content": parts}
    fixed = {"status": "completed", "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    head = {"id": f"resp-{number}", "object": "response", "created_at": int(time.time()), "model": model}
    return {**head, "output": [item], **fixed, **more}


def usage(prompt: int, answered: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + answered, "completion_tokens": answered}


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def named(kind: str, data: dict[str, Any]) -> bytes:
    """An event with a name, which its data says again."""
    return f"event: {kind}\n".encode() + event({"type": kind, **data})


DONE = b"data: [DONE]\n\n"


def error(status: int, message: str, kind: str = "server_error", code: Any = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)
