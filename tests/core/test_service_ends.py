"""How requests end: each is counted once, as finished, failed or cancelled; a stop tells whose answer had not begun."""

import asyncio
import json

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import Overloaded, Unavailable
from core.http.disconnect import ClientDisconnected
from core.http.shell import send_json
from core.service import create_service
from core.settings import Settings
from tests.fakes.wait import soon

NAME = "ends"


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(send, {})


async def refused(scope: Scope, receive: Receive, send: Send) -> None:
    raise Overloaded("full", retry_after=1)


async def away(scope: Scope, receive: Receive, send: Send) -> None:
    raise Unavailable("away", retry_after=1)


async def bug(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError


async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(send, {})
    scope["broken"] = True


async def left(scope: Scope, receive: Receive, send: Send) -> None:
    raise ClientDisconnected


async def left_midway(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ClientDisconnected


async def left_within_its_body(scope: Scope, receive: Receive, send: Send) -> None:
    raise ClientDisconnect


HANDLERS = {"/fine": fine, "/refused": refused, "/away": away, "/bug": bug, "/breaks": breaks}
HANDLERS |= {"/left": left, "/left_midway": left_midway, "/left_within": left_within_its_body}
OUTCOMES = {
    "/fine": "finished",
    "/refused": "finished",
    "/away": "failed",
    "/bug": "failed",
    "/breaks": "failed",
    "/left": "cancelled",
    "/left_midway": "cancelled",
    "/left_within": "cancelled",
}


def scope_of(path: str) -> Scope:
    return {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def counted() -> dict[str, float]:
    read = REGISTRY.get_sample_value
    found = {"accepted": read("soundstage_http_accepted_total", {"service": NAME})}
    for outcome in ("finished", "failed", "cancelled"):
        found[outcome] = read("soundstage_http_ended_total", {"service": NAME, "outcome": outcome})
    return {name: value or 0.0 for name, value in found.items()}


@pytest.fixture
def app(settings: Settings) -> ASGIApp:
    return create_service(NAME, FastAPI(), settings, routes={path: {"GET": each} for path, each in HANDLERS.items()})


@pytest.mark.parametrize(("path", "outcome"), OUTCOMES.items())
async def test_a_request_ends_once(app: ASGIApp, path: str, outcome: str) -> None:
    async def send(message: Message) -> None: ...

    before = counted()
    await app(scope_of(path), receive, send)
    more = {name: value - before[name] for name, value in counted().items()}
    assert more == {"accepted": 1, "finished": 0, "failed": 0, "cancelled": 0} | {outcome: 1}


async def test_whose_answer_has_not_begun_when_the_time_to_stop_is_over_is_told(settings: Settings) -> None:
    """What stops cancels what still runs: a 503 says to come again."""
    begun, said = asyncio.Event(), list[Message]()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        said.append(message)

    app = create_service(NAME, FastAPI(), settings, routes={"/waits": {"GET": waits}})
    task = asyncio.ensure_future(app(scope_of("/waits"), receive, send))
    await soon(begun.wait())
    before = counted()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert said[0]["status"] == 503
    assert dict(said[0]["headers"])[b"retry-after"] == b"1"
    assert json.loads(said[1]["body"])["error"]["code"] == "server_stopping"
    assert counted()["failed"] == before["failed"] + 1
