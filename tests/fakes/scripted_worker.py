"""A chat worker that says what a test tells it to: one answer to each recipe, told by the words of its last message."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

CAPTION = "Two friends watch a small red boat cross the quiet lake at dusk."
Says = Callable[[dict[str, Any]], str]


def expansion(prompt: str, intent: str = "a boat", safety: str = "safe") -> str:
    return json.dumps({"intent": intent, "prompt": prompt, "safety": safety})


class ScriptedWorker:
    """`expand` and `caption` are the answers, or make them of the request's body. An exception's status is an error."""

    def __init__(self) -> None:
        self.expand: str | Says = expansion("a red boat on a lake")
        self.captions: list[str] = [CAPTION]
        self.status = 200
        self.received: list[dict[str, Any]] = []
        self.running = 0

    def app(self) -> FastAPI:
        api = FastAPI()
        api.post("/v1/chat/completions")(self._chat)
        return api

    def asked(self, caption: bool) -> list[dict[str, Any]]:
        """The bodies of one kind."""
        return [body for body in self.received if _is_caption(body) == caption]

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.received.append(body)
        self.running += 1
        try:
            await asyncio.sleep(0)
            if self.status != 200:
                return JSONResponse({"error": {"message": "set to fail", "type": "x"}}, self.status)
            text = self._text(body)
        finally:
            self.running -= 1
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        return JSONResponse({**answer, "usage": usage})

    def _text(self, body: dict[str, Any]) -> str:
        if _is_caption(body):
            return self.captions[min(len(self.asked(caption=True)), len(self.captions)) - 1]
        return self.expand if isinstance(self.expand, str) else self.expand(body)


def _is_caption(body: dict[str, Any]) -> bool:
    return str(body["messages"][-1]["content"]).startswith("Seen: ")
