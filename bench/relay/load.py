"""The load generator: reads one order a line on standard input, answers each with one line of figures.

Bare sockets that are kept open; each connection sends its next request as soon as the last was answered whole.
"""

import asyncio
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

import uvloop

from bench.relay.traffic import NUMBER, Kind, request_body

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


class LoadError(Exception):
    """A request was not answered with 200 and a whole body."""


class _Connection(asyncio.Protocol):
    """Sends the request again and again until the deadline, and notes how long each answer took."""

    def __init__(self, request: bytes, numbers: Iterator[int], deadline: float) -> None:
        self._before, _, self._after = request.partition(NUMBER)
        self._numbers = numbers
        self._deadline = deadline
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
        if not self.done.done():
            self._fail(f"connection lost: {exc}")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(why))
        self._transport.abort()


async def run(order: Order) -> Figures:
    """Raises LoadError."""
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
    latencies = sorted(latency for _, each in made for latency in each.latencies)
    count = len(latencies)
    reads = sum(each.reads for _, each in made) / count
    p50, p99 = latencies[count // 2] * 1e3, latencies[count * 99 // 100] * 1e3
    return Figures(count, round(took, 3), round(p50, 4), round(p99, 4), round(reads, 2))


def main() -> None:
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            answer = asdict(uvloop.run(run(Order(**json.loads(line)))))
        except (LoadError, OSError, TimeoutError) as exc:
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
