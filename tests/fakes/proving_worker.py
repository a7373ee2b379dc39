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


def stands_for(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a /v1/responses body, as vLLM makes them."""
    given = body["input"]
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    head = body.get("instructions")
    return [{"role": "system", "content": head}, *messages] if head else messages


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

        @api.post("/v1/responses")
        async def respond(request: Request) -> Response:
            body = await request.json()
            self.received.append(body)
            messages = stands_for(body)
            if self.tamper:
                messages = [*messages, {"role": "system", "content": "More."}]
            headers = {} if self.silent else {"x-messages-sha256": hashlib.sha256(rfc8785.dumps(messages)).hexdigest()}
            if body.get("stream"):
                return StreamingResponse(self._response_events(body), media_type="text/event-stream", headers=headers)
            return JSONResponse(self._response(body), headers=headers)

        @api.post("/tokenize")
        async def tokenize(request: Request) -> dict[str, Any]:
            ids = token_ids((await request.json())["messages"])
            return {"count": len(ids), "tokens": ids}

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

    def _response(self, body: dict[str, Any]) -> dict[str, Any]:
        text = f"seed {body.get('seed')}: {stands_for(body)[-1]['content']}"
        parts = [{"type": "output_text", "text": part, "annotations": []} for part in (text[:5], text[5:])]
        item = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": parts}
        answer = {"id": "r", "object": "response", "created_at": 1, "model": body["model"], "output": [item]}
        answer |= {"status": "completed", "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
        if body.get("enable_response_messages"):
            answer["input_messages"] = [{"type": "raw_message_tokens", "tokens": token_ids(stands_for(body))}]
            answer["output_messages"] = []
        return answer

    async def _response_events(self, body: dict[str, Any]) -> Any:
        whole = self._response(body)
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": {**whole, "output": [], "input_messages": None}}
        ]
        at = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
        for part in whole["output"][0]["content"]:
            events.append({"type": "response.output_text.delta", "delta": part["text"], **at})
        events.append({"type": "response.completed", "response": whole})
        for number, event in enumerate(events):
            data = json.dumps({"sequence_number": number, **event})
            yield f"event: {event['type']}\ndata: {data}\n\n".encode()

    async def _events(self, body: dict[str, Any]) -> Any:
        envelope = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        for number, word in enumerate(self._text(body).split()):
            delta = {"content": word if number == 0 else f" {word}"}
            choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": None}
            event = {**envelope, "choices": [choice]}
            if body.get("return_token_ids"):
                choice["token_ids"] = [number]
                event["prompt_token_ids"] = token_ids(body["messages"]) if number == 0 else None
            yield f"data: {json.dumps(event)}\n\n".encode()
            await asyncio.sleep(0)
        yield b"data: [DONE]\n\n"
