"""The load generator, a process of its own: one order a line on its standard input, one line of figures for each.

Bare sockets that are kept open; each connection sends its next request as soon as the last was answered whole.
"""

import asyncio
import itertools
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import uvloop

from bench.harness import BenchError, python, quantile
from bench.traffic import NUMBER, Kind, request_body

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END = b"\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Order:
    """`seconds` is how long new requests are started for; those begun then are waited for."""

    port: int
    key: str
    path: str
    kind: Kind
    concurrency: int
    seconds: float


@dataclass(frozen=True)
class Figures:
    """`reads` is the mean number of reads an answer came in."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    reads: float


class LoadGenerator:
    """One order at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self, order: Order) -> Figures:
        """Raises BenchError when a request was not answered as it should be."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        answer = json.loads(await self._process.stdout.readline() or b'{"error": "the load generator ended"}')
        if "error" in answer:
            raise BenchError(answer["error"])
        return Figures(**answer)


@asynccontextmanager
async def load_generator() -> AsyncIterator[LoadGenerator]:
    """It ends with its standard input, so it cannot outlive the bench."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*python("bench.load"), stdin=pipe, stdout=pipe)
    try:
        yield LoadGenerator(process)
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


class _Connection(asyncio.StreamReaderProtocol):
    """Counts how many reads its answers came in."""

    reads = 0

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        super().data_received(data)


async def _latencies(order: Order, numbers: Iterator[int], deadline: float) -> tuple[list[float], int]:
    """Seconds of each answer on one connection, and the reads of all. Raises BenchError where one is no 200."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=1 << 20)
    transport, protocol = await loop.create_connection(lambda: _Connection(reader), "127.0.0.1", order.port)
    before, _, after = _request(order).partition(NUMBER)
    found: list[float] = []
    while not found or time.perf_counter() < deadline:
        began = time.perf_counter()
        transport.write(b"%b%08d%b" % (before, next(numbers), after))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchError(head[:300].decode(errors="replace"))
        length = _LENGTH.search(head)
        await (reader.readexactly(int(length[1])) if length else reader.readuntil(_END))
        found.append(time.perf_counter() - began)
    transport.close()
    return found, protocol.reads


def _request(order: Order) -> bytes:
    body = request_body(order.kind)
    head = (
        f"POST {order.path} HTTP/1.1\r\nHost: 127.0.0.1:{order.port}\r\nAuthorization: Bearer {order.key}\r\n"
        "Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: bench\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _run(order: Order) -> Figures:
    numbers = itertools.count(time.monotonic_ns() // 1000 % 50_000_000)  # so that a later order says other things
    started = time.perf_counter()
    async with asyncio.timeout(order.seconds + 60):
        work = (_latencies(order, numbers, started + order.seconds) for _ in range(order.concurrency))
        found = await asyncio.gather(*work)
    took = time.perf_counter() - started
    latencies = [seconds * 1e3 for each, _ in found for seconds in each]
    return Figures(
        requests=len(latencies),
        seconds=round(took, 3),
        p50_ms=round(quantile(latencies, 0.5), 4),
        p99_ms=round(quantile(latencies, 0.99), 4),
        reads=round(sum(reads for _, reads in found) / len(latencies), 2),
    )


def main() -> None:
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            answer = asdict(uvloop.run(_run(Order(**json.loads(line)))))
        except (BenchError, OSError, TimeoutError, asyncio.IncompleteReadError) as exc:
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
