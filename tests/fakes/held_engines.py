"""A chat engine, and below /draw an image worker, which hold answers step by step and count by idempotency key."""

import asyncio
from collections import Counter
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from core.http.disconnect import ClientDisconnected, until_disconnect
from tests.fakes.image_worker import PICTURE

CAPTION = "Here is the quiet picture that you asked me for, made just for you."


class HeldEngines:
    """`gates` are open for a step's requests where they are set; `begun` counts requests, by key."""

    def __init__(self, *steps: str) -> None:
        self.gates = {step: asyncio.Event() for step in steps}
        self.begun: Counter[str] = Counter()

    def open(self, *steps: str) -> None:
        """These are answered from now on, the others held."""
        for step, gate in self.gates.items():
            if step in steps:
                gate.set()
            else:
                gate.clear()

    def app(self) -> FastAPI:
        api = FastAPI()
        api.get("/v1/models")(self._models)
        api.post("/v1/chat/completions")(self._chat)
        api.get("/draw/v1/models")(self._models)
        api.post("/draw/v1/images/generations")(self._draw)
        return api

    async def _models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "small", "object": "model"}]}

    async def _chat(self, request: Request) -> Response:
        choice = {"index": 0, "message": {"role": "assistant", "content": CAPTION}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        told = {"id": "c", "object": "chat.completion", "created": 1, "model": "small"}
        return await self._held(request, {**told, "choices": [choice], "usage": usage})

    async def _draw(self, request: Request) -> Response:
        return await self._held(request, {"created": 1, "data": [{"b64_json": PICTURE, "seed": 7}], "steps": 4})

    async def _held(self, request: Request, answer: dict[str, Any]) -> Response:
        await request.body()
        key = request.headers.get("idempotency-key", "")
        self.begun[key] += 1
        try:
            with until_disconnect(request.receive):
                for step in key.split(":")[1:2]:
                    await self.gates[step].wait()
        except ClientDisconnected:
            return Response(status_code=499)
        return JSONResponse(answer)
