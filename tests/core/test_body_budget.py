"""How many bytes of bodies a service holds: by route, by key, in all, and before it knows whose they are."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.types import Message, Receive, Scope, Send

from core.errors import Overloaded, Unavailable
from core.http.body import read_body
from core.http.body_budget import SMALL_BODY, BodyBudget
from core.http.shell import CONTROL_BODY, MAX_ENTERING, Shell, send_json
from core.json.size import CONTROL_VALUES
from core.service import create_service
from core.settings import Settings
from tests.fakes.wait import eventually, soon

LARGE = 2 * SMALL_BODY


class Held:
    """A service whose raw handler holds what it was sent until it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.enter = asyncio.Event()
        self.enter.set()
        self.holding = 0

    async def hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        self.holding += 1
        await self.go.wait()
        self.holding -= 1
        await send_json(send, len(body))

    async def entry(self, scope: Scope) -> None:
        await self.enter.wait()
        scope["key_id"] = dict(scope["headers"])[b"key"].decode()

    def app(self) -> Shell:
        api = FastAPI()

        async def size(http: Request) -> int:
            return len(await http.body())

        api.post("/control")(size)
        api.post("/upload")(size)
        settings = Settings.load(max_body_bytes=2 * CONTROL_BODY, max_bodies_bytes=4 * CONTROL_BODY)
        routes = {"/hold": {"POST": self.hold}}
        return create_service("held", api, settings, routes=routes, authorise=self.entry, large={"/upload"})


class Asked:
    """A request in flight."""

    def __init__(self, app: Shell, path: str, key: str, size: int, *, stated: bool, of: bytes) -> None:
        self._left = size
        self._of = of
        self.reads = 0
        self._sent: list[Message] = []
        length = (b"content-length", str(size).encode()) if stated else (b"transfer-encoding", b"chunked")
        scope = {
            **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "query_string": b""},
            **{"path": path, "raw_path": path.encode(), "root_path": "", "server": ("a", 80)},
            "headers": [(b"host", b"a"), (b"key", key.encode()), length],
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        self.reads += 1
        if self._left < 0:
            await asyncio.Event().wait()
        piece, self._left = min(self._left, SMALL_BODY), self._left - SMALL_BODY
        return {"type": "http.request", "body": self._of * max(0, piece), "more_body": self._left > 0}

    async def _send(self, message: Message) -> None:
        self._sent.append(message)

    async def answer(self) -> tuple[int, Any, dict[bytes, bytes]]:
        await soon(self.task)
        body = json.loads(b"".join(message.get("body", b"") for message in self._sent))
        code = body["error"]["code"] if isinstance(body, dict) else body
        return self._sent[0]["status"], code, dict(self._sent[0]["headers"])


@asynccontextmanager
async def held() -> AsyncIterator[tuple[Held, Any]]:
    service = Held()
    app = service.app()

    def ask(path: str, key: str, size: int, *, stated: bool = True, of: bytes = b"x") -> Asked:
        return Asked(app, path, key, size, stated=stated, of=of)

    yield service, ask
    service.go.set()


@pytest.mark.parametrize("stated", [True, False], ids=["stated length", "chunked"])
async def test_one_key_holds_half_of_all_bodies_and_small_ones_always_fit(stated: bool) -> None:
    most = 2 * CONTROL_BODY
    async with held() as (service, ask):
        first = ask("/hold", "a", most)
        await eventually(lambda: service.holding == 1, "the first body")
        status, code, headers = await ask("/hold", "a", LARGE, stated=stated).answer()
        assert (status, code, headers[b"retry-after"]) == (429, "too_many_body_bytes", b"1")
        small = ask("/hold", "a", SMALL_BODY, stated=stated)
        second = ask("/hold", "b", most, stated=stated)
        await eventually(lambda: service.holding == 3, "the small one and the other key's")
        status, code, headers = await ask("/hold", "c", LARGE, stated=stated).answer()
        assert (status, code, headers[b"retry-after"]) == (503, "too_many_body_bytes", b"1")
        service.go.set()
        assert [(await each.answer())[:2] for each in (first, small, second)] == [
            (200, most),
            (200, SMALL_BODY),
            (200, most),
        ]
        assert (await ask("/hold", "a", most, stated=stated).answer())[:2] == (200, most)


async def test_a_body_of_stated_length_that_does_not_fit_is_not_read() -> None:
    async with held() as (service, ask):
        ask("/hold", "a", 2 * CONTROL_BODY)
        await eventually(lambda: service.holding == 1, "the first body")
        refused = ask("/hold", "a", LARGE)
        assert (await refused.answer())[0] == 429
        assert refused.reads == 0


@pytest.mark.parametrize("stated", [True, False], ids=["stated length", "chunked"])
async def test_a_control_route_takes_less_than_one_for_uploads(stated: bool) -> None:
    async with held() as (_, ask):
        assert (await ask("/control", "a", CONTROL_BODY, stated=stated).answer())[:2] == (200, CONTROL_BODY)
        assert (await ask("/control", "a", CONTROL_BODY + 1, stated=stated).answer())[:2] == (413, "body_too_large")
        assert (await ask("/upload", "a", CONTROL_BODY + 1, stated=stated).answer())[:2] == (200, CONTROL_BODY + 1)


@pytest.mark.parametrize("stated", [True, False], ids=["stated length", "chunked"])
async def test_a_control_route_takes_as_many_values_as_are_parsed_in_a_moment(stated: bool) -> None:
    async with held() as (_, ask):
        for size, expected in ((CONTROL_VALUES, (200, CONTROL_VALUES)), (CONTROL_VALUES + 1, (400, "too_many_values"))):
            assert (await ask("/control", "a", size, stated=stated, of=b",").answer())[:2] == expected
        size = CONTROL_VALUES + 1
        assert (await ask("/upload", "a", size, stated=stated, of=b",").answer())[:2] == (200, size)


@pytest.mark.parametrize("stated", [True, False], ids=["stated length", "chunked"])
async def test_few_large_bodies_wait_for_their_key_and_none_of_them_is_read(stated: bool) -> None:
    async with held() as (service, ask):
        service.enter.clear()
        waiting = [ask("/hold", "a", LARGE, stated=stated) for _ in range(MAX_ENTERING)]
        small = ask("/hold", "a", SMALL_BODY)
        status, code, headers = await ask("/hold", "a", LARGE, stated=stated).answer()
        assert (status, code, headers[b"retry-after"]) == (503, "too_many_entering", b"1")
        assert [each.reads for each in (*waiting, small)] == [0] * (MAX_ENTERING + 1)
        service.enter.set()
        service.go.set()
        assert (await small.answer())[0] == 200
        assert {(await each.answer())[0] for each in waiting} <= {200, 429}


def test_what_is_given_back_is_free_and_nobody_is_remembered() -> None:
    budget = BodyBudget(4 * LARGE, LARGE)
    with budget.share("a") as share:
        share.reach(SMALL_BODY)
        assert budget.held == 0
        share.reach(LARGE)
        share.reach(LARGE - 1)
        assert budget.held == LARGE
        with pytest.raises(Overloaded):
            share.reach(3 * LARGE)
        assert budget.held == LARGE
        with budget.share(None) as other:
            other.reach(3 * LARGE)
            with budget.share("b") as third, pytest.raises(Unavailable):
                third.reach(LARGE)
    assert budget.held == 0
    assert not budget._by_key


def test_the_largest_body_fits_where_nothing_is_held() -> None:
    budget = BodyBudget(LARGE, 10 * LARGE)
    with budget.share("a") as share:
        share.reach(10 * LARGE)
        assert budget.held == 10 * LARGE
