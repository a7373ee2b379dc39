"""The least service that relays: every request goes to one engine, nothing else happens."""

import asyncio

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from yarl import URL

from core.http.body import read_body
from core.http.disconnect import until_disconnect
from core.http.end_to_end import request_headers
from core.http.relay import Outcome, Relay
from core.service import create_service
from core.settings import Settings

METHODS = ("GET", "HEAD", "POST", "DELETE")
ENGINE_KEY = "engine-key"


class Gateway:
    """`relay` and `engine` may be exchanged between requests; `outcomes` says how each one ended."""

    path = "/v1/chat/completions"

    def __init__(self) -> None:
        self.port = 0
        self.relay = Relay()
        self.engine = URL()
        self.forwarding = asyncio.Event()
        self.outcomes: asyncio.Queue[Outcome | BaseException] = asyncio.Queue()

    def app(self, settings: Settings) -> ASGIApp:
        return create_service("gateway", FastAPI(), settings, routes={self.path: dict.fromkeys(METHODS, self.handle)})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            outcome: Outcome | BaseException = await self._relay(scope, receive, send)
        except BaseException as exc:
            self.outcomes.put_nowait(exc)
            raise
        self.outcomes.put_nowait(outcome)

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> Outcome:
        body = await read_body(receive)
        headers = request_headers(scope["headers"], scope["request_id"], ENGINE_KEY)
        url = URL(f"{self.engine}{scope['raw_path'].decode()}?{scope['query_string'].decode()}", encoded=True)
        with until_disconnect(receive):
            self.forwarding.set()
            return await self.relay.forward(scope["method"], url, headers, body or None, send)
