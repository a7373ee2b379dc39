"""A stand-in engine in a process of its own, which may be killed: what it was asked for is kept in a file.

    PORT=… python -m bench.pipelines.engine KIND TICK LOG

KIND is chat, image or selfie. It computes nothing: a request takes some ticks of TICK seconds, which stand for tokens
or denoising steps. What comes again with its key goes through the workers' own code (llm/repeats.py, image/repeats.py).
LOG gets a line for each request that is begun, finished or ended before its time: `EVENT KEY SECONDS`. GET /state tells
how many run.
"""

import asyncio
import base64
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import Send

from core.errors import InvalidRequest, SoundstageError
from core.http.body import read_body
from core.http.disconnect import ClientDisconnected, until_disconnect
from core.keyed_calls import Bounds
from image.events import Admitted, Finished, Partial
from image.generation import Generation
from image.repeats import RepeatableCall
from image.repeats import Repeats as ImageRepeats
from image.request import ImageRequest, Pixels, RequestId
from llm.repeats import Repeats

CAPTION = "Here is the quiet picture that you asked me for, made just for you."
EXPANDED = {"intent": "an apple", "prompt": "a red apple on a table, soft light", "safety": "safe"}
BOUNDS = Bounds(most=1024, bytes=64 << 20, seconds=600)
ANALYSIS = {
    "features": {"expression": {"value": "smiling", "confidence": 0.9, "source": "small"}},
    **{"face": {"found": True, "quality_score": 0.8}, "image": {"width": 64, "height": 64}},
    **{"apparent_age": "adult", "vision_model": None, "warnings": [], "portrait": None},
}


def picture(prompt: str, seed: int) -> bytes:
    """What this prompt and seed give, always."""
    return b"\x89PNG\r\n\x1a\n" + hashlib.sha256(f"{seed} {prompt}".encode()).digest() * 64


class Engine:
    """The requests that run, and the file of all there were."""

    def __init__(self, kind: str, tick: float, log: str) -> None:
        self.kind = kind
        self._tick = tick
        self.running = 0
        self._log = os.open(log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        self._chat, self._image = Repeats(BOUNDS), ImageRepeats(BOUNDS)

    def _note(self, event: str, key: str) -> None:
        os.write(self._log, f"{event} {key} {time.time():.3f}\n".encode())  # a line is written whole, or not at all

    @asynccontextmanager
    async def _work(self, key: str, ticks: int) -> AsyncIterator[None]:
        self.running += 1
        self._note("begun", key)
        came_to = "ended"
        try:
            if self._tick:
                await self._sleep(ticks)
            yield
            came_to = "finished"
        finally:
            self._note(came_to, key)
            self.running -= 1

    async def _sleep(self, ticks: int) -> None:
        for _ in range(ticks):
            await asyncio.sleep(self._tick)

    # -- HTTP -----------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        body = await read_body(receive)
        try:
            with until_disconnect(receive):
                await self._answer(scope, body, send)
        except ClientDisconnected:
            pass
        except SoundstageError as exc:
            await _send(send, exc.envelope(), exc.status)

    async def _answer(self, scope: Any, body: bytes, send: Send) -> None:
        path, headers = scope["path"], {name.decode(): value.decode() for name, value in scope["headers"]}
        key = headers.get("idempotency-key", "none")
        if path in ("/state", "/readyz"):
            await _send(send, {"running": self.running})
        elif path == "/v1/models":
            await _send(send, {"object": "list", "data": [{"id": self.kind, "object": "model"}]})
        elif path == "/v1/profile/analyze":
            await _send(send, ANALYSIS)
        elif path == "/v1/chat/completions":
            await self._chat.answer(path, scope["headers"], body, send, lambda send: self._say(key, body, send))
        elif path == "/v1/images/find":
            await _send(send, {"found": self._image.status(headers.get("x-soundstage-tenant", ""), key)})
        elif path == "/v1/images/cancel":
            await _send(send, {"cancelled": self._image.cancel(headers.get("x-soundstage-tenant", ""), key)})
        elif path == "/v1/images/generations":
            await self._draw(headers, key, body, send)
        else:
            await _send(send, {"error": {"message": "no such path", "code": "not_found"}}, 404)

    # -- chat -----------------------------------------------------------------------------------------------------

    async def _say(self, key: str, body: bytes, send: Send) -> None:
        asked = json.loads(body)
        if "messages" not in asked:
            raise InvalidRequest("There are no messages.", param="messages", code="missing")
        async with self._work(key, 3 + len(key) % 4 if key != "none" else 0):
            pass
        wants = "caption" in str(asked["messages"][0]["content"]).lower()
        text = CAPTION if wants else json.dumps(EXPANDED) if "response_format" in asked else EXPANDED["prompt"]
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
        told = {"id": "c", "object": "chat.completion", "created": 1, "model": "chat"}
        await _send(send, {**told, "choices": [choice], "usage": usage})

    # -- images ---------------------------------------------------------------------------------------------------

    async def _draw(self, headers: dict[str, str], key: str, body: bytes, send: Send) -> None:
        asked, wait = json.loads(body), float(headers.get("x-soundstage-wait", 0))
        call = RepeatableCall(headers.get("x-soundstage-tenant", ""), key, hashlib.sha256(body).hexdigest(), wait)
        async with self._image.joined(call, lambda: self._drawn(key, asked)) as images:
            if asked.get("stream"):
                await self._streamed(images[0], send)
                return
            done = await images[0].result()
        await _send(send, {"created": 1, "data": [_datum(done.pixels, images[0])], "steps": 4})

    @asynccontextmanager
    async def _drawn(self, key: str, asked: dict[str, Any]) -> AsyncIterator[list[Generation]]:
        request = ImageRequest(asked["prompt"], 64, 64, 4, int(asked.get("seed", 1)))
        generation = Generation(RequestId(0), request, lambda: None)
        drawing = asyncio.create_task(self._steps(key, generation, int(asked.get("partial_images") or 0)))
        try:
            yield [generation]
        finally:
            drawing.cancel()

    async def _steps(self, key: str, generation: Generation, previews: int) -> None:
        asked = generation.request
        generation.deliver(Admitted())
        half = 3 + asked.seed % 4
        async with self._work(key, half):
            for index in range(previews):
                generation.deliver(Partial(index, Pixels(64, 64, picture("preview", asked.seed))))
            await self._sleep(half if self._tick else 0)
        generation.deliver(Finished(Pixels(64, 64, picture(asked.prompt, asked.seed)), "", 1, 1))

    async def _streamed(self, image: Generation, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        async for event in image:
            if isinstance(event, Partial | Finished):
                last = isinstance(event, Finished)
                name = f"image_generation.{'completed' if last else 'partial_image'}"
                told = {"type": name, "image_index": 0, **_datum(event.pixels, image)}
                told |= {"steps": 4} if isinstance(event, Finished) else {"partial_image_index": event.index}
                frame = f"event: {name}\ndata: {json.dumps(told)}\n\n".encode()
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _datum(pixels: Pixels, image: Generation) -> dict[str, Any]:
    return {"b64_json": base64.b64encode(pixels.rgb).decode(), "seed": image.request.seed}


async def _send(send: Send, value: Any, status: int = 200) -> None:
    body = json.dumps(value).encode()
    headers: Iterable[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    kind, tick, log = sys.argv[1:]
    port = int(os.environ["PORT"])
    uvicorn.run(Engine(kind, float(tick), log), host="127.0.0.1", port=port, log_level="error", lifespan="off")
