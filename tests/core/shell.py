"""An application with a route of every kind behind the shell, for the tests of the shell."""

import asyncio
import json

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import Overloaded
from core.http.access_log import AccessLog
from core.http.body import read_body
from core.http.disconnect import until_disconnect
from core.http.shell import send_json
from core.service import Readiness, create_service
from core.settings import Settings

LIMIT = 1024
SECRET = "the-inside-of-a-bug"
SERVICE = "shell-under-test"


class Item(BaseModel):
    name: str
    sizes: list[int] = []


async def raw_echo(scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(send, {"bytes": len(await read_body(receive)), "request_id": scope["request_id"]})


async def raw_bug(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError(SECRET)


async def raw_late_bug(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError(SECRET)


async def raw_overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    raise Overloaded("full", retry_after=1.2)


class Midway(Response):
    """An answer that begins and never ends."""

    def __init__(self, hanging: asyncio.Event) -> None:
        super().__init__()
        self._hanging = hanging

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with until_disconnect(receive):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            self._hanging.set()
            await asyncio.Event().wait()


class Service:
    """The application under test and what it wrote."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.access = AccessLog(SERVICE, write=self.log.append)
        self.readiness = Readiness(True, {"workers": 2})
        self.hanging = asyncio.Event()
        self.port = 0

    async def ready(self) -> Readiness:
        return self.readiness

    def lines(self) -> list[dict[str, object]]:
        self.access.flush()
        return [json.loads(line) for text in self.log for line in text.splitlines()]

    def app(self) -> ASGIApp:
        api = FastAPI()

        @api.post("/items/{number}")
        async def items(number: int, item: Item, query: int = 0) -> Item:
            return item

        @api.get("/bug")
        async def bug() -> None:
            raise RuntimeError(SECRET)

        @api.get("/overloaded")
        async def overloaded() -> None:
            raise Overloaded("full", retry_after=1.2)

        @api.get("/http/{status}")
        async def http(status: int) -> None:
            raise HTTPException(status, "said so", headers={"x-kept": "1"})

        @api.post("/hang")
        async def hang(request: Request) -> None:
            await request.body()
            with until_disconnect(request.receive):
                self.hanging.set()
                await asyncio.Event().wait()

        @api.post("/hang/midway")
        async def midway(request: Request) -> Response:
            await request.body()
            return Midway(self.hanging)

        return create_service(
            SERVICE,
            api,
            Settings.load(max_body_bytes=LIMIT),
            routes={
                "/raw": {"POST": raw_echo, "PUT": raw_echo},
                "/raw/bug": {"GET": raw_bug},
                "/raw/late-bug": {"GET": raw_late_bug},
                "/raw/overloaded": {"GET": raw_overloaded},
            },
            ready=self.ready,
            access=self.access,
        )
