"""A service answers a bounded number of requests at once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from fastapi import FastAPI

from core.service import create_service
from core.settings import Settings
from tests.fakes.client import ask, request
from tests.fakes.serving import serving
from tests.fakes.wait import eventually, soon


@dataclass
class Slow:
    """A route that answers when it is let go."""

    inside: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> FastAPI:
        api = FastAPI()

        @api.get("/slow")
        async def slow() -> dict[str, bool]:
            self.inside += 1
            await self.go.wait()
            return {"ok": True}

        return api


@pytest.fixture
async def slow() -> Slow:
    return Slow()


@pytest.fixture
async def port(slow: Slow) -> AsyncIterator[int]:
    async with serving(create_service("crowd", slow.app(), Settings.load(max_requests=2))) as port:
        yield port


async def test_one_too_many_is_429_and_a_place_that_is_left_is_taken_again(slow: Slow, port: int) -> None:
    first = [asyncio.ensure_future(ask(port, request(b"GET", b"/slow"))) for _ in range(2)]
    await eventually(lambda: slow.inside == 2, "two requests inside")
    refused = await ask(port, request(b"GET", b"/slow"))
    assert refused.status == 429
    assert refused.header(b"retry-after") == b"1"
    assert refused.json()["error"]["code"] == "too_many_requests"
    assert (await ask(port, request(b"GET", b"/healthz"))).status == 200
    slow.go.set()
    assert [answer.status for answer in await soon(asyncio.gather(*first))] == [200, 200]
    assert (await ask(port, request(b"GET", b"/slow"))).status == 200
