"""Many requests of all kinds, many of them left by their clients: `python -m bench.soak [REQUESTS]`.

A real orchestrator (with its database, keys, policy, run records) in front of a stand-in engine and one that breaks.
Afterwards nothing may be left: no connection, no task, no growing memory, and the orchestrator's own counters must add
up exactly: accepted = finished + failed + cancelled.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.relay.processes import free_port, python, running, without_settings
from bench.relay.traffic import MODEL, PACED_MODEL
from core.keys import new_key
from core.registration import Registrar
from core.wire.workers import Announcement

REQUESTS, CLIENTS, SEED = 100_000, 32, 1
BROKEN_MODEL = "breaks"
IDLE_SECONDS = 8.0  # longer than any idle connection to an engine is kept
RESULT = Path(__file__).parent / "results" / "soak.json"
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
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What the orchestrator says of itself."""

    accepted: float
    finished: float
    failed: float
    cancelled: float
    in_flight: float
    tasks: float
    open_files: float
    connections: int  # TCP: to clients, engines and whoever registers

    @property
    def ended(self) -> float:
        return self.finished + self.failed + self.cancelled


class Client:
    """One of those who ask: it keeps its connection while it can."""

    def __init__(self, port: int, key: str, seed: int) -> None:
        self._port, self._key = port, key
        self._random = random.Random(seed)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.seen: Counter[str] = Counter()

    async def ask(self) -> None:
        """One request of a random kind, and what became of it."""
        [kind] = self._random.choices(list(KINDS), list(KINDS.values()))
        data = self._request(kind)
        try:
            if kind.startswith("left"):
                self.seen[f"{kind}: left"] += 1
                await self._leave(data if kind == "left at once" else data[:-20])
            else:
                self.seen[f"{kind}: {await self._answered(data, kind)}"] += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            self.seen[f"{kind}: cut"] += 1
            self.hang_up()

    def _request(self, kind: str) -> bytes:
        model = {"an unknown model": "nope", "an engine that breaks": BROKEN_MODEL}.get(kind, MODEL)
        stream = kind.startswith("stream") or self._random.random() < 0.5
        if kind in ("stream left midway", "left at once"):
            model = PACED_MODEL
        said = f"Tell me about number {self._random.getrandbits(40)}."
        body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": said}]})
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
        length = _LENGTH.search(head)
        if length:
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


async def soaked(requests: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="soundstage-") as name:
        folder, key = Path(name), new_key()
        engine_port, port = free_port(), free_port()
        env = {**without_settings(folder), "PORT": str(port), "DATA_DIR": str(folder), "WAN_WORKER_API_KEY": key}
        env |= {"LOG_LEVEL": "error"}
        async with (
            running("engine", python("bench.relay.engine", engine_port), engine_port, folder),
            _breaking() as breaking,
            running("orchestrator", python("orchestrator"), port, folder, env) as server,
            registered(f"http://127.0.0.1:{port}", key, worker("stand-in", engine_port, MODEL, PACED_MODEL)),
            registered(f"http://127.0.0.1:{port}", key, worker("breaks", breaking, BROKEN_MODEL)),
        ):
            local = (folder / "keys" / "local_api_key").read_text().strip()
            return await _run(requests, port, local, server.child.pid)


async def _run(requests: int, port: int, key: str, pid: int) -> dict[str, Any]:
    tree = psutil.Process(pid).children(recursive=True)
    process = next(each for each in tree if each.cmdline()[1:3] == ["-m", "orchestrator"])
    clients = [Client(port, key, SEED + number) for number in range(CLIENTS)]
    await _ask_all(clients, min(2000, requests // 10), [])  # what is made once is made now
    before, began = await _rest(clients, port, process), time.monotonic()
    memory: list[float] = []
    watching = asyncio.create_task(_watch(process, memory))
    await _ask_all(clients, requests, memory)
    seconds = time.monotonic() - began
    watching.cancel()
    after = await _rest(clients, port, process)
    return _figures(requests, seconds, clients, before, after, memory)


async def _ask_all(clients: list[Client], requests: int, memory: list[float]) -> None:
    left = iter(range(requests))

    async def asks(client: Client) -> None:
        for number in left:
            await client.ask()
            if memory and number % 10_000 == 0:
                print(f"{number:,} requests, {memory[-1]:.1f} MiB", flush=True)

    await asyncio.gather(*map(asks, clients))


async def _rest(clients: list[Client], port: int, process: "psutil.Process") -> Reading:
    """All have hung up, and idle connections had time to be closed."""
    for client in clients:
        client.hang_up()
    await asyncio.sleep(IDLE_SECONDS)
    open_now = [each for each in process.net_connections("tcp") if each.status != psutil.CONN_LISTEN]
    return await _read(port, len(open_now))


async def _watch(process: "psutil.Process", memory: list[float]) -> None:
    while True:
        memory.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(0.5)


def _figures(
    requests: int,
    seconds: float,
    clients: list[Client],
    before: Reading,
    after: Reading,
    memory: list[float],
) -> dict[str, Any]:
    seen = sum((client.seen for client in clients), Counter[str]())
    quarter = max(1, len(memory) // 4)
    quarters = [round(statistics.mean(memory[at : at + quarter]), 1) for at in range(0, 4 * quarter, quarter)]
    return {
        "requests": requests,
        "seconds": round(seconds, 1),
        "a_second": round(requests / seconds),
        "load_1m": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "what_clients_saw": dict(sorted(seen.items())),
        "accepted": after.accepted - before.accepted,
        "finished": after.finished - before.finished,
        "failed": after.failed - before.failed,
        "cancelled": after.cancelled - before.cancelled,
        "accepted_less_ended": after.accepted - after.ended,
        "in_flight": after.in_flight,
        "tasks": {"before": before.tasks, "after": after.tasks},
        "open_files": {"before": before.open_files, "after": after.open_files},
        "connections": {"before": before.connections, "after": after.connections},
        "resident_mib_by_quarter": quarters,
    }


def verdicts(found: dict[str, Any]) -> dict[str, bool]:
    """The reading itself is accepted and in flight as it is made: 1."""
    quarters = found["resident_mib_by_quarter"]
    return {
        "counters add up": found["accepted_less_ended"] == 1 == found["in_flight"],
        "no task is left": found["tasks"]["after"] <= found["tasks"]["before"],
        "no file is left": found["open_files"]["after"] <= found["open_files"]["before"],
        "no connection is left": found["connections"]["after"] <= found["connections"]["before"],
        "memory is flat from the second quarter on": quarters[3] - quarters[1] < 0.02 * quarters[1],
    }


async def _read(port: int, connections: int) -> Reading:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()

    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def ended(outcome: str) -> float:
        return value(f'soundstage_http_ended_total{{outcome="{outcome}",service="orchestrator"}}')

    return Reading(
        value('soundstage_http_accepted_total{service="orchestrator"}'),
        *(ended("finished"), ended("failed"), ended("cancelled")),
        value('soundstage_http_requests_in_flight{service="orchestrator"}'),
        value("soundstage_tasks"),
        value("process_open_fds"),
        connections,
    )


def worker(name: str, port: int, *models: str) -> Announcement:
    served = [{"id": model, "abilities": ["chat"]} for model in models]
    return Announcement.model_validate(
        {"id": name, "kind": "chat", "url": f"http://127.0.0.1:{port}", "models": served, "capacity": 1024}
    )


@contextlib.asynccontextmanager
async def registered(url: str, key: str, worker: Announcement) -> AsyncIterator[None]:
    registrar = Registrar(url, key, lambda: worker)
    heartbeat = asyncio.create_task(registrar.run())
    try:
        async with asyncio.timeout(30):
            while not registrar.registered:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(0.05)
        yield
    finally:
        heartbeat.cancel()
        await asyncio.wait([heartbeat])


@contextlib.asynccontextmanager
async def _breaking() -> AsyncIterator[int]:
    """An engine whose every answer goes wrong in a way of its own, by turns."""
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


def main() -> int:
    found = asyncio.run(soaked(int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS))
    found["holds"] = verdicts(found)
    text = json.dumps(found, indent=1)
    if found["requests"] == REQUESTS:
        RESULT.write_text(text + "\n")
    print(text)
    return 0 if all(found["holds"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
