"""Several processes serve one port as one orchestrator: limits and metrics hold for all, one that dies is replaced."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest

from core import metrics
from core.http.exposition import Family, Place, merged
from core.http.processes import reserved
from core.http.serving import bind
from orchestrator.settings import OrchestratorSettings
from tests.fakes.client import RawClient, connected, request
from tests.fakes.program import program
from tests.fakes.studio import WORKER_KEY
from tests.fakes.upstream import Exchange, Upstream, recording_upstream
from tests.fakes.wait import answers, eventually, soon
from tests.image.processes import free_port

ANSWER = b'{"id":"x","object":"chat.completion","choices":[]}'
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
WORKER = {"id": "w", "kind": "chat", "models": [{"id": "small", "abilities": ["chat"]}], "capacity": 64}


@dataclass
class Studio:
    """`python -m orchestrator` with PROCESSES=2: `parent` serves nothing."""

    parent: psutil.Process
    process: asyncio.subprocess.Process
    port: int
    data_dir: Path

    @property
    def key(self) -> str:
        return (self.data_dir / "keys" / "local_api_key").read_text().strip()

    def serving(self) -> list[psutil.Process]:
        """Those that listen on the port."""
        found = []
        for process in self.parent.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                at = process.net_connections("tcp4")
                if any(each.status == "LISTEN" and each.laddr.port == self.port for each in at):
                    found.append(process)
        return found

    def at(self, client_port: int) -> int:
        """The process that has this connection."""
        for process in self.serving():
            if any(each.raddr and each.raddr.port == client_port for each in process.net_connections("tcp4")):
                return int(process.pid)
        return 0

    async def post(self, path: str, body: object, key: str) -> tuple[int, Any]:
        async with connected(self.port) as client:
            return await asked(client, path, body, key)

    async def metrics(self) -> str:
        async with connected(self.port) as client:
            await client.send(request(target=b"/metrics"))
            return (await client.answer()).body.decode()

    async def total(self, name: str) -> float:
        return sum(map(float, re.findall(rf"^{name} (\S+)$", await self.metrics(), re.MULTILINE)))


async def asked(client: RawClient, path: str, body: object, key: str) -> tuple[int, Any]:
    headers = [(b"Authorization", b"Bearer " + key.encode()), (b"Content-Type", b"application/json")]
    await client.send(request(b"POST", path.encode(), headers, json.dumps(body).encode()))
    answer = await client.answer()
    return answer.status, json.loads(answer.body)


def said(text: str) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": text}]}


@asynccontextmanager
async def studio(dsn: str, data_dir: Path, **given: str) -> AsyncIterator[Studio]:
    port = free_port()
    own = {"DATABASE_URL": dsn, "DATA_DIR": str(data_dir), "PORT": str(port), "WAN_WORKER_API_KEY": WORKER_KEY}
    kept = {name: value for name, value in os.environ.items() if name not in ("LLM_URL", "HOST")}
    env = {**kept, **own, "LOG_LEVEL": "error", "PROCESSES": "2", "STOP_SECONDS": "1", **given}
    async with program(sys.executable, "-m", "orchestrator", env=env) as process:
        found = Studio(psutil.Process(process.pid), process, port, data_dir)
        family = found.parent
        try:
            yield found
        finally:
            with contextlib.suppress(psutil.Error):
                for each in family.children(recursive=True):
                    each.kill()


@asynccontextmanager
async def running(dsn: str, data_dir: Path) -> AsyncIterator[tuple[Studio, Upstream]]:
    """Two processes serve, and know a worker."""
    async with recording_upstream() as upstream, studio(dsn, data_dir) as found:

        async def answer(exchange: Exchange) -> None:
            await exchange.write(WHOLE)

        upstream.script = answer
        await eventually(lambda: len(found.serving()) == 2, "two that listen")
        status, _ = await found.post("/v1/workers", WORKER | {"url": str(upstream.url)}, WORKER_KEY)
        assert status == 200
        yield found, upstream


@asynccontextmanager
async def one_at_each(studio: Studio) -> AsyncIterator[dict[int, RawClient]]:
    """A connection at each of the two processes, which have heard of the worker."""
    async with AsyncExitStack() as stack:
        found: dict[int, RawClient] = {}

        async def of_both() -> bool:
            client = await stack.enter_async_context(connected(studio.port))
            assert (await asked(client, "/v1/chat/completions", said("first"), studio.key))[0] in (200, 404, 503)
            found[studio.at(client.port)] = client
            return len(found) == 2

        await answers(of_both, "a connection at each")
        for client in found.values():

            async def knows(client: RawClient = client) -> bool:
                return (await asked(client, "/v1/chat/completions", said("first"), studio.key))[0] == 200

            await answers(knows, "the worker at both")
        yield found


@pytest.mark.slow
async def test_limits_and_metrics_are_those_of_all(migrated_dsn: str, tmp_path: Path) -> None:
    async with running(migrated_dsn, tmp_path) as (here, upstream), one_at_each(here) as clients:

        async def key(**limits: int) -> str:
            status, made = await here.post("/v1/keys", {"name": "k", "scopes": ["chat"], "limits": limits}, here.key)
            assert status == 201
            return str(made["secret"])

        relayed = r'soundstage_http_requests_total\{[^}]*route="/v1/chat/completions",[^}]*status="200"\}'
        before = await here.total(relayed)
        minute, counted = None, Counter[int]()
        while minute != time.time() // 60:  # a new one gives ten more
            minute, limited, counted = time.time() // 60, await key(requests_per_minute=10), Counter()
            for _ in range(10):
                for client in clients.values():
                    counted[(await asked(client, "/v1/chat/completions", said("one"), limited))[0]] += 1
            before += counted[200]
        assert counted == {200: 10, 429: 10}

        go_on, running_now = asyncio.Event(), 0

        async def held(exchange: Exchange) -> None:
            nonlocal running_now
            running_now += 1
            await soon(go_on.wait())
            await exchange.write(WHOLE)

        upstream.script = held
        two = await key(concurrent=2)
        first = [
            asyncio.ensure_future(asked(each, "/v1/chat/completions", said("long"), two)) for each in clients.values()
        ]
        await eventually(lambda: running_now == 2, "one at each process")
        assert [(await here.post("/v1/chat/completions", said("one"), two))[0] for _ in range(4)] == [429] * 4
        assert await here.total(r'soundstage_http_requests_in_flight\{service="orchestrator"\}') == 3, "with this one"
        assert await here.total(r'soundstage_workers\{kind="chat",state="ready"\}') == 1, "one worker, seen twice"
        go_on.set()
        assert [(await each)[0] for each in first] == [200, 200]
        assert {await here.total(relayed) for _ in range(8)} == {before + 2}


@pytest.mark.slow
async def test_one_that_is_killed_is_replaced_and_its_counts_stay(migrated_dsn: str, tmp_path: Path) -> None:
    async with running(migrated_dsn, tmp_path) as (here, _), one_at_each(here) as clients:
        for client in clients.values():
            assert (await asked(client, "/v1/chat/completions", said("one"), here.key))[0] == 200
        answered = r'soundstage_http_requests_total\{[^}]*route="/v1/chat/completions",[^}]*\}'
        before = await here.total(answered)
        killed = here.serving()[0]
        killed.kill()
        await eventually(lambda: killed not in here.serving(), "the end of one")
        for _ in range(8):
            assert (await here.post("/v1/chat/completions", said("one"), here.key))[0] == 200
        assert await here.total(answered) == before + 8
        await eventually(lambda: len(here.serving()) == 2, "the next one")
        assert {await here.total(answered) for _ in range(8)} == {before + 8}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
async def test_none_outlives_the_parent(migrated_dsn: str, tmp_path: Path, number: signal.Signals) -> None:
    async with studio(migrated_dsn, tmp_path) as here:
        await eventually(lambda: len(here.serving()) == 2, "two that listen")
        family = here.parent.children(recursive=True)
        here.process.send_signal(number)
        assert await soon(here.process.wait()) == (-number if number == signal.SIGKILL else 0)
        await eventually(lambda: not any(each.is_running() for each in family), "the end of all")


@pytest.mark.slow
async def test_one_that_cannot_start_ends_all_with_its_status(tmp_path: Path) -> None:
    async with studio(f"postgresql://127.0.0.1:{free_port()}/none", tmp_path) as here:
        assert await soon(here.process.wait()) not in (0, None)


def test_a_port_whose_last_connections_linger_is_taken_again_at_once() -> None:
    """Who closes a connection first keeps its end for a minute: a studio that is started again does not wait for it."""
    host, port = "127.0.0.1", free_port()
    with reserved(host, port), bind(host, port, shared=True) as listening:
        listening.listen()
        with socket.create_connection((host, port)) as client:
            listening.accept()[0].close()
            assert client.recv(1) == b""
    with reserved(host, port) as again:
        assert again == port


def test_the_parts_of_all_processes_are_what_is_set(tmp_path: Path) -> None:
    settings = OrchestratorSettings.load(processes=3, queue_max=7, max_requests=10, interface_shorts_queue_max=2)
    parts = [settings.part_of(place) for place in range(3)]
    assert [part["QUEUE_MAX"] for part in parts] == ["3", "2", "2"]
    assert [part["MAX_REQUESTS"] for part in parts] == ["4", "3", "3"]
    assert [part["INTERFACE_SHORTS_QUEUE_MAX"] for part in parts] == ["1", "1", "0"]
    assert "INTERFACE_PROFILE_QUEUE_MAX" not in parts[0]


def test_totals_are_added_and_what_all_see_alike_is_not() -> None:
    one = [
        Family(
            "soundstage_x", "", "counter", [("soundstage_x_total", {"a": "1"}, 2.0), ("soundstage_x_created", {}, 9.0)]
        ),
        Family("soundstage_workers", "", "gauge", [("soundstage_workers", {}, 3.0)]),
        Family("soundstage_tasks", "", "gauge", [("soundstage_tasks", {}, 5.0)]),
    ]
    other = [
        Family(
            "soundstage_x", "", "counter", [("soundstage_x_total", {"a": "1"}, 1.0), ("soundstage_x_created", {}, 7.0)]
        ),
        Family("soundstage_workers", "", "gauge", [("soundstage_workers", {}, 2.0)]),
        Family("soundstage_tasks", "", "gauge", [("soundstage_tasks", {}, 4.0)]),
    ]
    values = {name: value for family in merged([*one, *other]) for name, _, value in family.samples}
    assert values == {
        **{"soundstage_x_total": 3.0, "soundstage_x_created": 7.0, "soundstage_workers": 3.0, "soundstage_tasks": 9.0}
    }


async def test_a_total_that_was_shown_never_falls(tmp_path: Path) -> None:
    """Both places are of this process, so each count stands there twice."""

    async def shown() -> float:
        text = (await second.exposition()).decode()
        (value,) = re.findall(r'^soundstage_relay_errors_total\{reason="zz"\} (\S+)$', text, re.MULTILINE)
        return float(value)

    metrics.RELAY_ERRORS.labels("zz").inc()
    first, second = Place(tmp_path, 0, 2), Place(tmp_path, 1, 2)
    await first.open()
    assert await shown() == 2
    first.close()
    assert await shown() == 2, "one is away"
    again = Place(tmp_path, 0, 2)
    await again.open()
    assert await shown() == 3, "the next one at its place adds to what was there"
    again.close()
