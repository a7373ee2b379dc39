"""Processes under measurement: started on a leash, found ready, and asked how much CPU they have used."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.relay.load import Figures, Order
from core.process.child import Child, Command

START_SECONDS, POLL_SECONDS = 90.0, 0.1


class BenchError(Exception):
    """A part of the bench does not run; the message says which and why."""


@dataclass(frozen=True)
class Server:
    """A process that listens on `port`, with whatever it starts itself."""

    name: str
    port: int
    child: Child

    def cpu_seconds(self) -> float:
        """User and system time of the process, its threads and its living descendants so far.

        The leash, this bench's own, is not counted.
        """
        total = 0.0
        for process in psutil.Process(self.child.pid).children(recursive=True):
            times = process.cpu_times()
            total += times.user + times.system
        return total


@asynccontextmanager
async def running(
    name: str, argv: tuple[str, ...], port: int, folder: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Server]:
    """A server for as long as the block runs; it is ready when it answers on `port`. Raises BenchError."""
    log = folder / f"{name}.log"
    child = await Child.start(Command(name, argv, log, env or {}, grace=20.0))
    try:
        await _answering(child, port, name, log)
        yield Server(name, port, child)
    finally:
        await child.stop()


async def _answering(child: Child, port: int, name: str, log: Path) -> None:
    """Until any HTTP answer comes: a server may listen before it serves."""
    for _ in range(int(START_SECONDS / POLL_SECONDS)):
        if not child.running:
            raise BenchError(f"{name} ended at its start: {log.read_text(errors='replace')[-1000:]}")
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                answer = await reader.readline()
                writer.close()
            if answer:
                return
        await asyncio.sleep(POLL_SECONDS)
    raise BenchError(f"{name} did not answer within {START_SECONDS:g} s")


class LoadGenerator:
    """The load generator's process: one order at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self, order: Order) -> Figures:
        """Raises BenchError when a request was not answered as it should be."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order.__dict__).encode() + b"\n")
        answer = json.loads(await self._process.stdout.readline() or b'{"error": "the load generator ended"}')
        if "error" in answer:
            raise BenchError(answer["error"])
        return Figures(**answer)


@asynccontextmanager
async def load_generator() -> AsyncIterator[LoadGenerator]:
    """It ends with its standard input, so it cannot outlive the bench."""
    process = await asyncio.create_subprocess_exec(
        *python("bench.relay.load"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield LoadGenerator(process)
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


def python(module: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *map(str, arguments))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def without_settings(folder: Path) -> dict[str, str]:
    """An environment in which neither a settings file nor this shell's variables change what is measured."""
    empty = folder / "empty.toml"
    empty.touch()
    named = ("HOST", "DATABASE_URL", "LLM_URL", "LOG_LEVEL", "LOG_FORMAT", "MAX_BODY_BYTES", "IMAGE_WORKER_URLS")
    return {"SOUNDSTAGE_SETTINGS": str(empty), **{name: "" for name in named if name in os.environ}}
