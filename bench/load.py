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
from typing import Any, cast

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


class _Connection(asyncio.Protocol):
    """Sends the request again and again until the deadline, and notes how long each answer took."""

    def __init__(self, request: bytes, numbers: Iterator[int], deadline: float) -> None:
        self._before, _, self._after = request.partition(NUMBER)
        self._numbers, self._deadline = numbers, deadline
        self.latencies: list[float] = []
        self.reads = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing only
        self._send()

    def _send(self) -> None:
        self._head: bytes | None = None
        self._buffer = self._tail = b""
        self._left: int | None = None  # bytes of the body that are missing, where its length is known
        self._started = time.perf_counter()
        self._transport.write(b"%b%08d%b" % (self._before, next(self._numbers), self._after))

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        if self._head is None:
            self._buffer += data
            head, blank, data = self._buffer.partition(b"\r\n\r\n")
            if not blank:
                return
            self._begin(head)
        if self._ends_with(data):
            self.latencies.append(time.perf_counter() - self._started)
            if time.perf_counter() < self._deadline:
                self._send()
            else:
                self.done.set_result(None)
                self._transport.close()

    def _begin(self, head: bytes) -> None:
        self._head = head
        length = _LENGTH.search(head)
        self._left = int(length[1]) if length else None
        if not head.startswith(b"HTTP/1.1 200"):
            self._fail(self._buffer[:300].decode(errors="replace"))

    def _ends_with(self, data: bytes) -> bool:
        if self._left is None:
            self._tail = (self._tail + data)[-len(_END) :]
            return self._tail == _END
        self._left -= len(data)
        return self._left == 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"connection lost: {exc}")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(BenchError(why))
        self._transport.abort()


async def _run(order: Order) -> Figures:
    body = request_body(order.kind)
    head = (
        f"POST {order.path} HTTP/1.1\r\nHost: 127.0.0.1:{order.port}\r\nAuthorization: Bearer {order.key}\r\n"
        "Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: bench\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    request, loop, started = head.encode() + body, asyncio.get_running_loop(), time.perf_counter()
    numbers = itertools.count(time.monotonic_ns() // 1000 % 50_000_000)  # so that a later order says other things

    def connection() -> _Connection:
        return _Connection(request, numbers, started + order.seconds)

    made = [await loop.create_connection(connection, "127.0.0.1", order.port) for _ in range(order.concurrency)]
    async with asyncio.timeout(order.seconds + 60):
        await asyncio.gather(*(each.done for _, each in made))
    took = time.perf_counter() - started
    latencies = [latency * 1e3 for _, each in made for latency in each.latencies]
    return Figures(
        requests=len(latencies),
        seconds=round(took, 3),
        p50_ms=round(quantile(latencies, 0.5), 4),
        p99_ms=round(quantile(latencies, 0.99), 4),
        reads=round(sum(each.reads for _, each in made) / len(latencies), 2),
    )


def main() -> None:
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            answer = asdict(uvloop.run(_run(Order(**json.loads(line)))))
        except (BenchError, OSError, TimeoutError) as exc:
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
