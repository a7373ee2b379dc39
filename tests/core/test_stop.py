"""A stop with a delay: the service says that it will go and goes on answering, until its time or a second signal."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

import pytest
import uvicorn
from fastapi import FastAPI

from core.http.serving import Server, bind, server_config
from core.http.shell import Shell
from core.service import create_service
from core.settings import Settings
from tests.fakes.client import Answer, ask, request
from tests.fakes.wait import answers, eventually, soon

LONG = 600.0


class _Server(Server):
    running: "Running"

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()  # Ctrl-C is pytest's

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await uvicorn.Server.startup(self, sockets)  # the garbage collector is pytest's, too

    def end_by_force_after(self, seconds: float) -> None:
        self.running.forced += 1  # the process is pytest's

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) and not self.running.hold


class Running:
    """A service behind its server, and how often it told that it will stop. `hold`: it goes on though it should not."""

    def __init__(self, delay: float) -> None:
        self.told = self.forced = 0
        self.hold = False
        self.service: Shell = create_service("stopping", FastAPI(), Settings.load())
        self.service.on_stop(self._tell)
        self.server = _Server(server_config(self.service), self.service, delay)
        self.server.running = self
        self.port = 0

    def _tell(self) -> None:
        self.told += 1

    async def get(self, path: bytes) -> Answer:
        return await ask(self.port, request(target=path))

    async def stopping(self) -> bool:
        return (await self.get(b"/readyz")).status == 503


@asynccontextmanager
async def running(delay: float) -> AsyncIterator[tuple[Running, asyncio.Future[None]]]:
    found, sock = Running(delay), bind("127.0.0.1", 0)
    found.port = sock.getsockname()[1]
    serving = asyncio.ensure_future(found.server.serve(sockets=[sock]))
    await eventually(lambda: found.server.started or serving.done(), "the server's start")
    try:
        yield found, serving
    finally:
        found.server.handle_exit(signal.SIGINT, None)
        await soon(serving)


async def test_until_its_time_it_answers_and_says_that_it_will_go() -> None:
    async with running(LONG) as (service, serving):
        before = await service.get(b"/readyz")
        assert (before.status, before.header(b"connection")) == (200, None)
        service.server.handle_exit(signal.SIGTERM, None)
        await answers(service.stopping, "a service that will stop")
        ready, answer = await service.get(b"/readyz"), await service.get(b"/healthz")
        assert ready.json() == {"ready": False, "stopping": True}
        assert (answer.status, answer.header(b"connection")) == (200, b"close"), "no more on this connection"
        assert not serving.done()
        assert service.told == 1
        service.server.handle_exit(signal.SIGTERM, None)
        await soon(serving)
        assert service.told == 1


@pytest.mark.parametrize(("number", "delay"), [(signal.SIGINT, LONG), (signal.SIGTERM, 0.0)])
async def test_a_person_at_the_keyboard_waits_for_no_delay(number: signal.Signals, delay: float) -> None:
    async with running(delay) as (service, serving):
        service.server.handle_exit(number, None)
        await soon(serving)
        assert service.told == 1
