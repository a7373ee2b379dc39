"""A guard model: it answers /v1/moderations, and chat completions in the words of the guards there are."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

BAD = "zzguarded"


class GuardModel:
    """Finds `BAD`. `words` is what it answers then; `broken` and `slow` are ways to fail."""

    def __init__(self) -> None:
        self.words = "unsafe\nS1"
        self.category = "violence"
        self.broken = False
        self.slow = False
        self.asked: list[str] = []
        self.traces: list[str | None] = []

    def app(self) -> FastAPI:
        api = FastAPI()

        @api.post("/v1/moderations")
        async def moderations(request: Request) -> Any:
            self.traces.append(request.headers.get("traceparent"))
            texts = (await request.json())["input"]
            if (failed := await self._hear(texts)) is not None:
                return failed
            results = [{"flagged": BAD in text, "categories": {self.category: BAD in text}} for text in texts]
            return {"id": "modr", "model": "guard", "results": results}

        @api.post("/v1/chat/completions")
        async def chat(request: Request) -> Any:
            self.traces.append(request.headers.get("traceparent"))
            text = (await request.json())["messages"][-1]["content"]
            if (failed := await self._hear([text])) is not None:
                return failed
            said = self.words if BAD in text else "safe"
            return {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}

        return api

    async def _hear(self, texts: list[str]) -> JSONResponse | None:
        self.asked += texts
        if self.slow:
            await asyncio.Event().wait()
        return JSONResponse({"nothing": "useful"}) if self.broken else None
