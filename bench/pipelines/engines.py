"""Stand-ins for a chat engine and image workers in one process, which count what each idempotency key asked for.

    python -m bench.pipelines.engines PORT SECONDS

`SECONDS` is how long a request takes. Image worker N is below /N, so that one port is as many workers as are wanted.
GET /counts gives how often each key was begun and finished.
"""

import asyncio
import base64
import sys
from collections import Counter

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"picture " * 1024).decode()
CAPTION = "Here is the quiet picture that you asked me for, made just for you."
ANSWER = {"intent": "an apple", "prompt": "a red apple on a table, soft light", "safety": "safe"}


def create_app(seconds: float) -> FastAPI:
    api = FastAPI()
    begun: Counter[str] = Counter()
    finished: Counter[str] = Counter()

    async def work(request: Request) -> None:
        key = request.headers.get("idempotency-key", "none")
        begun[key] += 1
        await asyncio.sleep(seconds)
        finished[key] += 1

    @api.get("/counts")
    async def counts() -> dict[str, dict[str, int]]:
        return {"begun": begun, "finished": finished}

    @api.get("/v1/models")
    async def chat_models() -> dict[str, object]:
        return {"object": "list", "data": [{"id": "small", "object": "model"}]}

    @api.post("/v1/chat/completions")
    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        await work(request)
        text = CAPTION if "caption" in str(body["messages"][0]["content"]).lower() else ANSWER["prompt"]
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
        return JSONResponse(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": "small",
                "choices": [choice],
                "usage": usage,
            }
        )

    @api.get("/{worker}/v1/models")
    async def image_models(worker: int) -> dict[str, object]:
        return {"object": "list", "data": [{"id": "image", "object": "model"}]}

    @api.post("/{worker}/v1/images/generations")
    async def draw(worker: int, request: Request) -> JSONResponse:
        await request.body()
        await work(request)
        return JSONResponse({"created": 1, "data": [{"b64_json": PICTURE, "seed": 1}], "steps": 4})

    return api


if __name__ == "__main__":
    uvicorn.run(create_app(float(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
