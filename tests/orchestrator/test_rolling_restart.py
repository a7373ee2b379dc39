"""Two orchestrators over one database; one stops under traffic. Nothing that was asked is lost or done twice."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.client import Answer, RawClient, connected, request
from tests.fakes.program import program
from tests.fakes.studio import WORKER_KEY
from tests.fakes.upstream import Exchange, Upstream, recording_upstream
from tests.fakes.wait import answers, eventually, soon
from tests.image.processes import START_SECONDS, free_port

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b'f\r\ndata: {"n": 1}\n\r\n'
WORKERS = {"id": "w", "kind": "chat", "models": [{"id": "small", "abilities": ["chat"]}], "capacity": 64}


@dataclass
class Orchestrator:
    """A process of its own."""

    process: asyncio.subprocess.Process
    port: int
    key: str

    def said(self, path: bytes, key: str, body: object) -> bytes:
        headers = [(b"Authorization", b"Bearer " + key.encode()), (b"Content-Type", b"application/json")]
        return request(b"POST", path, headers, json.dumps(body).encode())

    def chat(self, said: str, *, stream: bool = False) -> bytes:
        body = {"model": "small", "stream": stream, "messages": [{"role": "user", "content": said}]}
        return self.said(b"/v1/chat/completions", self.key, body)


@asynccontextmanager
async def orchestrator(dsn: str, data_dir: Path) -> AsyncIterator[Orchestrator]:
    port = free_port()
    given = {"DATABASE_URL": dsn, "DATA_DIR": str(data_dir), "PORT": str(port), "WAN_WORKER_API_KEY": WORKER_KEY}
    kept = {name: value for name, value in os.environ.items() if name not in ("LLM_URL", "HOST")}
    env = {**kept, **given, "LOG_LEVEL": "error", "STOP_SECONDS": "90"}
    async with program(sys.executable, "-m", "orchestrator", env=env) as process:
        async with asyncio.timeout(START_SECONDS):
            while not await _listens(port):  # noqa: ASYNC110 - another process: it has no event to wait for
                await asyncio.sleep(0.1)
        yield Orchestrator(process, port, (data_dir / "keys" / "local_api_key").read_text().strip())


async def _listens(port: int) -> bool:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        async with connected(port) as client:
            await client.send(request(target=b"/healthz"))
            return (await client.answer()).status == 200
    return False


class Engine:
    """It streams two events to each; to one that says `long` only when it is told."""

    def __init__(self, upstream: Upstream) -> None:
        self.asked: Counter[str] = Counter()
        self.go_on, self.began = asyncio.Event(), asyncio.Event()
        upstream.script = self._script

    async def _script(self, exchange: Exchange) -> None:
        said = json.loads(exchange.received.body)["messages"][0]["content"]
        self.asked[said] += 1
        await exchange.write(SSE + CHUNK)
        if said == "long":
            self.began.set()
            await soon(self.go_on.wait())
        await exchange.write(CHUNK + b"0\r\n\r\n")


async def _once(here: Orchestrator, said: str) -> Answer | None:
    """The answer; None where it was not taken: nobody listens there, or nothing of an answer came, or it is a 503."""
    try:
        async with connected(here.port) as client:
            await client.send(here.chat(said))
            answer = await client.answer()
    except (OSError, asyncio.IncompleteReadError):
        return None
    return answer if answer.status != 503 else None


@pytest.mark.slow
async def test_one_of_two_stops_under_traffic(migrated_dsn: str, tmp_path: Path) -> None:
    async with (
        recording_upstream() as upstream,
        orchestrator(migrated_dsn, tmp_path) as stops,
        orchestrator(migrated_dsn, tmp_path) as stays,
    ):
        engine = Engine(upstream)
        async with connected(stays.port) as client:
            await client.send(stays.said(b"/v1/workers", WORKER_KEY, WORKERS | {"url": str(upstream.url)}))
            assert (await client.answer()).status == 200
        await answers(lambda: _serves(stops), "the lease at the other orchestrator")
        numbers, done, refused = itertools.count(), list[Answer](), Counter[int]()

        async def asks(pair: tuple[Orchestrator, Orchestrator]) -> None:
            """As a balancer does: the next one where this one did not take it."""
            while len(done) < 400 or stops.process.returncode is None:
                said = str(next(numbers))
                for here in pair:
                    answer = await _once(here, said)
                    if answer is not None:
                        done.append(answer)
                        break
                    refused[here.port] += 1
                else:
                    raise AssertionError(f"nobody took {said}")

        async with connected(stops.port) as held:
            await held.send(stops.chat("long", stream=True))
            await soon(engine.began.wait())
            traffic = [asyncio.ensure_future(asks((stops, stays))) for _ in range(6)]
            traffic += [asyncio.ensure_future(asks((stays, stops))) for _ in range(2)]
            await eventually(lambda: len(done) > 40, "traffic")
            stops.process.send_signal(signal.SIGTERM)
            await eventually(lambda: refused[stops.port] > 20, "refusals by the one that stops")
            assert stops.process.returncode is None, "a stream is still running there"
            engine.go_on.set()
            assert await _rest(held) == CHUNK[3:-2] * 2, "what ran there ends whole"
            assert await soon(stops.process.wait()) in (0, -signal.SIGTERM)
        await soon(asyncio.gather(*traffic))
        assert {(answer.status, answer.whole) for answer in done} == {(200, True)}
        assert refused[stays.port] == 0
        assert set(engine.asked.values()) == {1}, "nothing was asked of the engine twice"
        assert sum(said.isdigit() for said in engine.asked) == len(done)


async def _serves(here: Orchestrator) -> bool:
    return await _once(here, f"first {os.urandom(8).hex()}") is not None


async def _rest(client: RawClient) -> bytes:
    await client.head()
    found = b""
    while piece := await client.chunk():
        found += piece
    return found
