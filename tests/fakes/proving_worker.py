"""A chat worker that says what it ran: the hash of its messages, and token ids where they are asked for.

`tamper` changes one character of what it received before it "runs" it, as a worker would that rewrites prompts.
"""

import asyncio
import hashlib
import json
from typing import Any

import rfc8785
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse


def token_ids(messages: list[dict[str, Any]]) -> list[int]:
    """A tokenizer of its own: one id for each byte."""
    return list(json.dumps(messages).encode())


class ProvingWorker:
    def __init__(self) -> None:
        self.tamper = False
        self.silent = False
        self.received: list[dict[str, Any]] = []

    def app(self) -> FastAPI:
        api = FastAPI()

        @api.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            body = await request.json()
            self.received.append(body)
            messages = body["messages"]
            if self.tamper:
                messages = [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + "."}]
            digest = hashlib.sha256(rfc8785.dumps(messages)).hexdigest()
            headers = {} if self.silent else {"x-messages-sha256": digest}
            if body.get("stream"):
                return StreamingResponse(self._events(body), media_type="text/event-stream", headers=headers)
            return JSONResponse(self._answer(body), headers=headers)

        @api.post("/tokenize")
        async def tokenize(request: Request) -> dict[str, Any]:
            return {"count": len(token_ids((await request.json())["messages"]))}

        return api

    def _text(self, body: dict[str, Any]) -> str:
        return f"seed {body.get('seed')}: {body['messages'][-1]['content']}"

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": self._text(body)}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        if body.get("return_token_ids"):
            answer["prompt_token_ids"] = token_ids(body["messages"])
            choice["token_ids"] = [1, 2]
        return answer

    async def _events(self, body: dict[str, Any]) -> Any:
        envelope = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        for number, word in enumerate(self._text(body).split()):
            delta = {"content": word if number == 0 else f" {word}"}
            event: dict[str, Any] = {**envelope, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            if number == 0 and body.get("return_token_ids"):
                event["prompt_token_ids"] = token_ids(body["messages"])
            yield f"data: {json.dumps(event)}\n\n".encode()
            await asyncio.sleep(0)
        yield b"data: [DONE]\n\n"
