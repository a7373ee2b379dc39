"""A worker stays known to its orchestrator: announced, kept alive, announced again after an outage, bid farewell."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator

import pytest

from core.registration import Registrar
from core.wire.workers import Announcement
from tests.fakes.orchestrator import Orchestrator, listening
from tests.fakes.wait import eventually, soon

EAGER = '{"id":"w","lease_seconds":60,"heartbeat_seconds":0.001}'


class Worker:
    """A worker whose state can change."""

    def __init__(self) -> None:
        self.ready = True

    def announce(self) -> Announcement:
        return Announcement.model_validate({"id": "w-1", "kind": "chat", "url": "http://w:1", "ready": self.ready})


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
async def orchestrator() -> AsyncIterator[Orchestrator]:
    orchestrator = Orchestrator()
    async with listening(orchestrator):
        yield orchestrator


def registrar(orchestrator: Orchestrator, worker: Worker) -> Registrar:
    return Registrar(orchestrator.url + "/", "worker-key", worker.announce, first_backoff=0.001, max_backoff=0.01)


@contextlib.asynccontextmanager
async def running(registrar: Registrar) -> AsyncIterator[None]:
    task = asyncio.ensure_future(registrar.run())
    try:
        yield
    finally:
        task.cancel()
        await soon(asyncio.wait([task]))
        assert task.cancelled()


async def test_a_worker_announces_itself_at_start(orchestrator: Orchestrator, worker: Worker) -> None:
    async with running(registrar(orchestrator, worker)):
        heard = await soon(orchestrator.heard.get())
        assert (heard.method, heard.authorization) == ("POST", "Bearer worker-key")
        assert Announcement.model_validate_json(heard.said) == worker.announce()


async def test_heartbeats_keep_coming_at_the_pace_asked_for(orchestrator: Orchestrator, worker: Worker) -> None:
    orchestrator.answer = EAGER
    async with running(registrar(orchestrator, worker)):
        assert {(await soon(orchestrator.heard.get())).method for _ in range(5)} == {"POST"}


async def test_a_change_is_announced_at_once(orchestrator: Orchestrator, worker: Worker) -> None:
    """The next heartbeat would be 30 s away."""
    keeping = registrar(orchestrator, worker)
    async with running(keeping):
        assert json.loads((await soon(orchestrator.heard.get())).said)["ready"] is True
        worker.ready = False
        keeping.changed()
        assert json.loads((await soon(orchestrator.heard.get())).said)["ready"] is False


async def test_it_says_goodbye_when_cancelled(orchestrator: Orchestrator, worker: Worker) -> None:
    keeping = registrar(orchestrator, worker)
    async with running(keeping):
        await soon(orchestrator.heard.get())
        await eventually(lambda: keeping.registered)
    assert await soon(orchestrator.heard.get()) == ("DELETE", "w-1", "Bearer worker-key")
    assert not keeping.registered


async def test_it_registers_again_when_the_orchestrator_comes_back(worker: Worker) -> None:
    orchestrator = Orchestrator()
    orchestrator.answer = EAGER
    async with listening(orchestrator) as port:
        keeping = registrar(orchestrator, worker)
        task = asyncio.ensure_future(keeping.run())
        await eventually(lambda: keeping.registered)
    await eventually(lambda: not keeping.registered)
    async with listening(orchestrator, port):
        await eventually(lambda: keeping.registered)
        task.cancel()
        await soon(asyncio.wait([task]))


async def test_a_change_cuts_the_backoff_short(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    orchestrator = Orchestrator()
    async with listening(orchestrator) as port:
        pass
    keeping = Registrar(orchestrator.url, "k", worker.announce, first_backoff=3600)
    async with running(keeping):
        await eventually(lambda: "not registered" in caplog.text)
        async with listening(orchestrator, port):
            keeping.changed()
            await eventually(lambda: keeping.registered)


async def test_a_worker_that_was_known_tries_again_as_often_as_it_beats(
    orchestrator: Orchestrator, worker: Worker
) -> None:
    orchestrator.answer = EAGER
    keeping = Registrar(orchestrator.url, "k", worker.announce, first_backoff=0.001, max_backoff=10**9)
    async with running(keeping):
        await eventually(lambda: keeping.registered)
        orchestrator.status = 503
        await eventually(lambda: not keeping.registered)
        before = orchestrator.heard.qsize()
        await eventually(lambda: orchestrator.heard.qsize() > before + 40)  # doubled each time: 2^40 ms


REFUSALS = {
    "wrong key": (401, '{"error":{"message":"no"}}'),
    "starting up": (503, ""),
    "not JSON": (200, "<html>"),
    "not a lease": (200, '{"id":"w"}'),
    "no heartbeat at all": (200, '{"id":"w","lease_seconds":60,"heartbeat_seconds":0}'),
}


@pytest.mark.parametrize(("status", "answer"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_refusal_is_tried_again_and_logged_once(
    orchestrator: Orchestrator, worker: Worker, status: int, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, orchestrator.status, orchestrator.answer = orchestrator.answer, status, answer
    keeping = registrar(orchestrator, worker)
    with caplog.at_level(logging.INFO, logger="core.registration"):
        async with running(keeping):
            for _ in range(4):
                await soon(orchestrator.heard.get())
            assert not keeping.registered
            orchestrator.status, orchestrator.answer = 200, good
            await eventually(lambda: keeping.registered)
    assert [record.message for record in caplog.records] == ["not registered", "registered"]
    assert "worker-key" not in caplog.text


async def test_nobody_registered_says_no_goodbye(orchestrator: Orchestrator, worker: Worker) -> None:
    orchestrator.status = 401
    async with running(registrar(orchestrator, worker)):
        await soon(orchestrator.heard.get())
    heard = [orchestrator.heard.get_nowait() for _ in range(orchestrator.heard.qsize())]
    assert "DELETE" not in {each.method for each in heard}


async def test_a_goodbye_to_nobody_ends_quietly(worker: Worker) -> None:
    orchestrator = Orchestrator()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(contextlib.AsyncExitStack())
        await server.enter_async_context(listening(orchestrator))
        keeping = registrar(orchestrator, worker)
        await stack.enter_async_context(running(keeping))
        await eventually(lambda: keeping.registered)
        await server.aclose()
