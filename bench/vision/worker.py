"""The worker as a process under load: photos a second with and without micro-batching, and memory over many photos."""

import asyncio
import itertools
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import psutil

START_SECONDS = 60.0
CLIENTS = 8
ROUNDS = 5


@dataclass(frozen=True)
class Worker:
    url: str
    process: psutil.Process

    def resident_mib(self) -> float:
        """Of the worker and its decoding processes."""
        return round(sum(one.memory_info().rss for one in self._family()) / 2**20, 1)

    def cpu_seconds(self) -> float:
        """The same processes', so far."""
        return sum(sum(one.cpu_times()[:2]) for one in self._family())

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@dataclass
class Way:
    """One figure for each round; the ways take turns."""

    photos_per_second: list[float] = field(default_factory=list)
    cpu_ms_per_photo: list[float] = field(default_factory=list)


@dataclass
class Rates:
    one_at_a_time: Way = field(default_factory=Way)  # one client, batches of one
    in_parallel: Way = field(default_factory=Way)  # CLIENTS clients, batches of one
    batched: Way = field(default_factory=Way)  # CLIENTS clients, what waits goes together
    mean_batch: float = 0.0


@dataclass
class Memory:
    photos: int = 0
    refused: int = 0
    resident_mib: list[float] = field(default_factory=list)  # after every twentieth part


@asynccontextmanager
async def worker(**settings: str) -> AsyncIterator[Worker]:
    """`python -m vision`, serving alone; killed at the end."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONDONTWRITEBYTECODE") if name in os.environ}
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vision"),
            env={**kept, "PORT": str(port), "VISION_QUEUE_MAX": "64", **settings},
            stdout=log,
            stderr=log,
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                await _until_ready(f"http://127.0.0.1:{port}/readyz")
            yield Worker(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
        finally:
            process.kill()
            await process.wait()


async def _until_ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass  # it does not listen yet
            await asyncio.sleep(0.1)


async def throughput(photos: Sequence[bytes], count: int) -> Rates:
    """`count` photos a round and way."""
    rates = Rates()
    async with worker(VISION_BATCH="1") as single, worker(VISION_BATCH="8") as batching:
        for one in (single, batching):
            await _send(Way(), one, photos, CLIENTS, 2 * CLIENTS)  # everything has run once
        for _ in range(ROUNDS):
            await _send(rates.one_at_a_time, single, photos, 1, count)
            await _send(rates.in_parallel, single, photos, CLIENTS, count)
            await _send(rates.batched, batching, photos, CLIENTS, count)
        rates.mean_batch = await _mean_batch(batching)
    return rates


async def memory(photos: Sequence[bytes], broken: Sequence[bytes], count: int) -> Memory:
    """`count` photos, every tenth one broken, CLIENTS at a time; the worker's memory meanwhile."""
    found = Memory()
    good, bad = itertools.cycle(photos), itertools.cycle(broken)
    async with worker() as one:
        for _ in range(20):
            part = [next(bad if number % 10 == 9 else good) for number in range(count // 20)]
            statuses = await _statuses(one, part, CLIENTS)
            found.photos += statuses.count(200)
            found.refused += statuses.count(400)
            found.resident_mib.append(one.resident_mib())
    return found


async def _send(way: Way, one: Worker, photos: Sequence[bytes], clients: int, count: int) -> None:
    started, cpu = time.perf_counter(), one.cpu_seconds()
    statuses = await _statuses(one, list(itertools.islice(itertools.cycle(photos), count)), clients)
    assert set(statuses) == {200}
    way.photos_per_second.append(round(count / (time.perf_counter() - started), 1))
    way.cpu_ms_per_photo.append(round((one.cpu_seconds() - cpu) / count * 1e3, 1))


async def _statuses(one: Worker, photos: Sequence[bytes], clients: int) -> list[int]:
    waiting = iter(photos)
    async with aiohttp.ClientSession() as session:
        found = await asyncio.gather(*(_client(session, one.url, waiting) for _ in range(clients)))
    return [status for statuses in found for status in statuses]


async def _client(session: aiohttp.ClientSession, url: str, waiting: Iterator[bytes]) -> list[int]:
    statuses = []
    for photo in waiting:
        form = aiohttp.FormData()
        form.add_field("image", photo, filename="photo")
        async with session.post(f"{url}/v1/profile/analyze", data=form) as response:
            await response.read()
            statuses.append(response.status)
    return statuses


async def _mean_batch(one: Worker) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{one.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    told = dict(line.split(" ", 1) for line in lines if line.startswith("soundstage_vision_batch_"))
    return round(float(told["soundstage_vision_batch_sum"]) / float(told["soundstage_vision_batch_count"]), 2)
