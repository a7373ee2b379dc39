"""Many requests of all kinds, many of them left by their clients: `python -m tests.endurance.soak [REQUESTS]`.

A real orchestrator (with its database, keys, policy, run records) in front of a stand-in engine and one that breaks.
Afterwards nothing may be left: no connection, no task, no growing memory, and the orchestrator's own counters must add
up exactly: accepted = finished + failed + cancelled.
"""

import asyncio
import contextlib
import itertools
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench.harness import Program, Studio, chat_worker, free_port, python, running, studio
from bench.traffic import MODEL, PACED_MODEL
from tests.endurance import harness

CLIENTS, SEED, WARM_REQUESTS = 32, 1, 2000
BROKEN_MODEL = "breaks"
IDLE_SECONDS = 8.0  # longer than any idle connection to an engine is kept
KINDS = {
    "json": 40,
    "stream": 20,
    "stream left midway": 15,
    "left at once": 10,
    "left within the body": 5,
    "an unknown model": 2,
    "an unknown key": 2,
    "not JSON": 2,
    "an engine that breaks": 4,
}
ENDS = ("finished", "failed", "cancelled")
COUNTERS = {
    "accepted": 'soundstage_http_accepted_total{service="orchestrator"}',
    **{end: f'soundstage_http_ended_total{{outcome="{end}",service="orchestrator"}}' for end in ENDS},
    "in_flight": 'soundstage_http_requests_in_flight{service="orchestrator"}',
    "tasks": "soundstage_tasks",
    "open_files": "process_open_fds",
}
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Client:
    """One of those who ask: it keeps its connection while it can. `answers` counts what became of its requests."""

    def __init__(self, port: int, key: str, seed: int) -> None:
        self._port, self._key = port, key
        self._random = random.Random(seed)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.answers: Counter[str] = Counter()

    async def ask(self) -> None:
        """One request of a random kind."""
        [kind] = self._random.choices(list(KINDS), list(KINDS.values()))
        data = self._request(kind)
        try:
            if kind.startswith("left"):
                self.answers[f"{kind}: left"] += 1
                await self._leave(data if kind == "left at once" else data[:-20])
            else:
                self.answers[f"{kind}: {await self._answered(data, kind)}"] += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            self.answers[f"{kind}: cut"] += 1
            self.hang_up()

    def _request(self, kind: str) -> bytes:
        model = {"an unknown model": "nope", "an engine that breaks": BROKEN_MODEL}.get(kind, MODEL)
        stream = kind.startswith("stream") or self._random.random() < 0.5
        if kind in ("stream left midway", "left at once"):
            model = PACED_MODEL
        question = f"Tell me about number {self._random.getrandbits(40)}."
        body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": question}]})
        body = body[:-3] if kind == "not JSON" else body
        key = "unknown" if kind == "an unknown key" else self._key
        return (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    async def _answered(self, data: bytes, kind: str) -> str:
        reader, writer = await self._connected()
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        status = head[9:12].decode()
        if kind == "stream left midway":
            left_after = self._random.randrange(6)
            while left_after and await self._chunk(reader):
                left_after -= 1
            self.hang_up(rudely=self._random.random() < 0.5)
            return f"{status}, left"
        if length := _LENGTH.search(head):
            await reader.readexactly(int(length[1]))
        else:
            while await self._chunk(reader):
                pass
        return status

    async def _chunk(self, reader: asyncio.StreamReader) -> int:
        size = int(await reader.readuntil(b"\r\n"), 16)
        await reader.readexactly(size + 2)
        return size

    async def _leave(self, data: bytes) -> None:
        _, writer = await self._connected()
        writer.write(data)
        await asyncio.sleep(self._random.random() * 0.005)
        self.hang_up(rudely=self._random.random() < 0.5)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self._reader, self._writer

    def hang_up(self, *, rudely: bool = False) -> None:
        """`rudely`: with a reset, as a process does that is killed."""
        if self._writer is not None:
            self._writer.transport.abort() if rudely else self._writer.close()
        self._reader = self._writer = None


async def soaked(folder: Path, requests: int) -> dict[str, Any]:
    port = free_port()
    async with (
        running(Program("engine", python("bench.engine", port), folder, port=port)),
        breaking_engine() as breaking,
        studio(
            folder,
            chat_worker("stand-in", port, MODEL, PACED_MODEL),
            chat_worker("breaks", breaking, BROKEN_MODEL),
            LOG_LEVEL="error",
        ) as whole,
    ):
        return await _run(requests, whole)


async def _run(requests: int, whole: Studio) -> dict[str, Any]:
    process = next(each for each in whole.program.family() if each.cmdline()[1:3] == ["-m", "orchestrator"])
    clients = [Client(whole.program.port, whole.key, SEED + number) for number in range(CLIENTS)]
    await _ask_all(clients, min(WARM_REQUESTS, requests), [])  # what is made once is made now
    before, began = await _rest(clients, whole.url, process), time.monotonic()
    memory: list[float] = []
    watching = asyncio.create_task(_watch(process, memory))
    await _ask_all(clients, requests, memory)
    seconds = time.monotonic() - began
    watching.cancel()
    after = await _rest(clients, whole.url, process)
    answers = sum((client.answers for client in clients), Counter[str]())
    figures = {"seconds": round(seconds, 1), "a_second": round(requests / seconds), "answers": dict(answers)}
    return {**figures, **_compared(before, after, memory)}


async def _ask_all(clients: list[Client], requests: int, memory: list[float]) -> None:
    left = iter(range(requests))

    async def asks(client: Client) -> None:
        for number in left:
            await client.ask()
            if memory and number % 10_000 == 0:
                print(f"{number:,} requests, {memory[-1]:.1f} MiB", flush=True)

    await asyncio.gather(*map(asks, clients))


async def _rest(clients: list[Client], url: str, process: psutil.Process) -> dict[str, float]:
    """What the orchestrator says of itself when all have hung up and idle connections had time to be closed."""
    for client in clients:
        client.hang_up()
    await asyncio.sleep(IDLE_SECONDS)
    connections = sum(each.status != psutil.CONN_LISTEN for each in process.net_connections("tcp"))
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        values = dict(re.findall(r"^(\S+) (\S+)$", await answer.text(), re.M))
    return {"connections": connections, **{name: float(values.get(line, 0)) for name, line in COUNTERS.items()}}


async def _watch(process: psutil.Process, memory: list[float]) -> None:
    while True:
        memory.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(0.1)


def _compared(before: dict[str, float], after: dict[str, float], memory: list[float]) -> dict[str, Any]:
    """The reading itself is accepted and in flight as it is made: 1."""
    ends = [len(memory) * part // 4 for part in range(5)]
    quarters = [round(statistics.mean(memory[a:b] or memory[-1:]), 1) for a, b in itertools.pairwise(ends)]
    holds = {
        "counters add up": after["accepted"] - sum(after[end] for end in ENDS) == 1 == after["in_flight"],
        **{f"no {what} is left": after[what] <= before[what] for what in ("tasks", "open_files", "connections")},
        "memory is flat from the second quarter on": quarters[3] - quarters[1] < 0.02 * quarters[1],
    }
    return {
        **{name: after[name] - before[name] for name in ("accepted", *ENDS)},
        **{name: {"before": before[name], "after": after[name]} for name in ("tasks", "open_files", "connections")},
        "resident_mib_by_quarter": quarters,
        "holds": holds,
    }


@contextlib.asynccontextmanager
async def breaking_engine() -> AsyncIterator[int]:
    """Its port. Every answer goes wrong in a way of its own, by turns."""
    turns = iter(range(10**9))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    event = b'data: {"choices":[]}\n\n'
    ways = (
        b"",
        head,
        head + b"%x\r\n%b\r\n" % (len(event), event),
        b"HTTP/1.1 500 X\r\ncontent-length: 2\r\n\r\n{}",
        b"no HTTP",
    )

    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ways[next(turns) % len(ways)])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(breaks, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


if __name__ == "__main__":
    harness.end("soak", __doc__ or "", soaked, unit="requests", default=100_000, limit_seconds=7200)
