"""One fake worker for chat, pictures and selfies: it keeps what it is sent, waits while it is held, and answers by its
scripts. tests/fakes/workers.py has a script for each kind."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from core.http.disconnect import ClientDisconnected, until_disconnect
from tests.fakes.answers import error


@dataclass(frozen=True)
class Call:
    """A request as it came: JSON, or a form's fields (texts, and files as bytes)."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]


Script = Callable[[Call], Any]
"""Returns JSON, the pieces of a stream, or a whole response."""


class ScriptedWorker:
    """`status` other than 200 refuses every call, with `code`. `held` keeps answers back while it is cleared; so does a
    gate the steps that it is named after: a pipeline's idempotency keys name them. `running` calls are being answered,
    `left` ones lost their caller. A `silent` worker proves nothing; with `tamper` it runs other messages than it was
    sent, and its hash says so."""

    def __init__(self, scripts: Mapping[str, Script], beside: Mapping[str, Script] | None = None) -> None:
        self.model = "small"
        self.status = 200
        self.code: str | None = None
        self.held = asyncio.Event()
        self.held.set()
        self.gates: dict[str, asyncio.Event] = {}
        self.tamper = self.silent = False
        self.received: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.begun: Counter[str] = Counter()  # by idempotency key
        self.running = self.left = 0
        self._scripts = scripts
        self._beside = beside or {}  # what is asked on the way, and not counted

    def app(self) -> Starlette:
        async def models(_: Request) -> Response:
            return JSONResponse({"object": "list", "data": [{"id": self.model, "object": "model"}]})

        async def beside(request: Request) -> Response:
            return _response(self._beside[request.url.path](await self._call(request)), {})

        roots = {path.partition("/v1/")[0] for path in self._scripts}
        lists = [Route(f"{root}/v1/models", models) for root in roots]
        answered = [Route(path, self._answer, methods=["POST"]) for path in self._scripts]
        asides = [Route(path, beside, methods=["POST"]) for path in self._beside]
        return Starlette(routes=[*lists, *answered, *asides])

    def open(self, *steps: str) -> None:
        """The gates of these steps are open from now on, the others shut."""
        for step, gate in self.gates.items():
            gate.set() if step in steps else gate.clear()

    def messages(self, body: dict[str, Any]) -> list[dict[str, Any]] | None:
        """Those that a body stands for; None where it has none to prove."""
        messages: list[dict[str, Any]] | None = body.get("messages")
        return messages

    async def form(self, request: Request) -> dict[str, Any]:
        """Its texts as they are, its files' bytes."""
        async with request.form() as form:
            return {name: value if isinstance(value, str) else await value.read() for name, value in form.items()}

    async def _call(self, request: Request) -> Call:
        is_form = request.headers.get("content-type", "").startswith("multipart/")
        body = await self.form(request) if is_form else await request.json() if await request.body() else {}
        return Call(request.url.path, body, dict(request.headers))

    async def _answer(self, request: Request) -> Response:
        call = await self._call(request)
        key = call.headers.get("idempotency-key", "")
        self.received.append(call.body)
        self.headers.append(call.headers)
        self.begun[key] += 1
        self.running += 1
        try:
            with until_disconnect(request.receive):
                await self._held(key)
            if self.status != 200:
                return error(self.status, "set to fail", code=self.code)
            return _response(self._scripts[call.path](call), self._proof(call.body))
        except ClientDisconnected:
            self.left += 1
            return Response(status_code=499)
        finally:
            self.running -= 1

    async def _held(self, key: str) -> None:
        await asyncio.sleep(0)
        await self.held.wait()
        for step in key.split(":")[1:2]:
            if step in self.gates:
                await self.gates[step].wait()

    def _proof(self, body: dict[str, Any]) -> dict[str, str]:
        messages = None if self.silent else self.messages(body)
        if messages is None:
            return {}
        if self.tamper:
            messages = [*messages[:-1], {**messages[-1], "content": f"{messages[-1].get('content')}."}]
        return {"x-messages-sha256": hashlib.sha256(rfc8785.dumps(messages)).hexdigest()}


def _response(answer: Any, headers: Mapping[str, str]) -> Response:
    if isinstance(answer, Response):
        return answer
    if isinstance(answer, AsyncIterator):
        return StreamingResponse(answer, media_type="text/event-stream", headers=headers)
    return JSONResponse(answer, headers=headers)
