"""`python -m bench.image.soak`: the memory of a real worker process while many requests come over HTTP and leave.

A third of the clients hang up at some moment. Figures go to bench/results/image-soak.json.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import aiohttp
import psutil

from image import heap
from training import untrained

RESULTS = Path(__file__).parents[1] / "results" / "image-soak.json"
CLIENTS = 8  # at once
_SIDES = (64, 96, 128)
_START_SECONDS = 600.0


@dataclass
class Soaked:
    finished: int = 0
    left: int = 0  # hung up before their picture came
    refused: int = 0
    resident_mib: list[float] = field(default_factory=list)  # after every twentieth part of the requests

    @property
    def growth_mib(self) -> float:
        """From the third quarter to the last, by their medians: by then everything has been allocated once."""
        quarter = len(self.resident_mib) // 4
        return round(median(self.resident_mib[-quarter:]) - median(self.resident_mib[-2 * quarter : -quarter]), 1)


async def soak(url: str, pid: int, requests: int, seed: int = 0) -> Soaked:
    """Send them, CLIENTS at a time."""
    chance, soaked, process = random.Random(seed), Soaked(), psutil.Process(pid)
    asked = [(chance.choice(_SIDES), chance.random() < 1 / 3, chance.uniform(0.0, 0.3)) for _ in range(requests)]
    part = max(CLIENTS, requests // 20)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS)) as session:
        for start in range(0, requests, part):
            gate = asyncio.Semaphore(CLIENTS)
            batch = asked[start : start + part]
            await asyncio.gather(*(_one(session, url, start + i, *one, gate, soaked) for i, one in enumerate(batch)))
            await asyncio.sleep(2 * heap.SECONDS + 1)  # by then the worker has given back what it freed
            soaked.resident_mib.append(round(process.memory_info().rss / 2**20, 1))
            print(start + len(batch), "requests:", soaked.resident_mib[-1], "MiB", flush=True)
    return soaked


async def _one(
    session: aiohttp.ClientSession,
    url: str,
    number: int,
    side: int,
    leaves: bool,
    after: float,
    gate: asyncio.Semaphore,
    soaked: Soaked,
) -> None:
    body = {"prompt": f"boat {number}", "size": f"{side}x64", "steps": 3, "stream": True, "partial_images": 1}
    async with gate:
        try:
            async with asyncio.timeout(after if leaves else None):
                async with session.post(f"{url}/v1/images/generations", json=body) as response:
                    ended = b"image_generation.completed" in await response.read()
        except TimeoutError:
            soaked.left += 1
            return
    soaked.finished += ended
    soaked.refused += not ended


@asynccontextmanager
async def worker(data: Path) -> AsyncIterator[tuple[str, int]]:
    """A worker process of its own; its address and process id."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    own = {
        "PORT": str(port),
        "DATA_DIR": str(data),
        "IMAGE_MODEL": str(untrained.ensure(data / untrained.MODEL)),
        "IMAGE_THREADS": "1",
        "IMAGE_DEFAULT_SIZE": "128x128",
        "IMAGE_TOKEN_BUDGET": "2000",
        "IMAGE_EMBEDDING_CACHE_MB": "1",  # full within the first half: every prompt is new
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0",  # else PyTorch's kernels are kept by shape, up to 1,024 of them
    }
    environment = {k: v for k, v in os.environ.items() if k not in ("WAN_WORKER_API_KEY", "ORCHESTRATOR_URL")} | own
    with (data / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "image"), env=environment, stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(_START_SECONDS):
            await _until_ready(url)
        yield url, process.pid
    finally:
        process.kill()
        await process.wait()


async def _until_ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass  # it does not listen yet
            await asyncio.sleep(0.1)


async def measure(requests: int) -> Soaked:
    with tempfile.TemporaryDirectory(prefix="soundstage-soak-") as data:
        async with worker(Path(data)) as (url, pid):
            return await soak(url, pid, requests)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.image.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    asked = parser.parse_args()
    started = time.perf_counter()
    soaked = asyncio.run(measure(asked.requests))
    seconds = round(time.perf_counter() - started, 1)
    when = time.strftime("%Y-%m-%d", time.gmtime())
    report = {"date": when, "cores": os.cpu_count(), "requests": asked.requests, "seconds": seconds, **asdict(soaked)}
    RESULTS.write_text(json.dumps(report | {"growth_mib": soaked.growth_mib}, indent=1) + "\n")
    print(f"{soaked.finished} pictures, {soaked.left} left early, {soaked.refused} refused, {seconds} s")
    print(f"resident MiB: {soaked.resident_mib}; from the third quarter to the last it grew by {soaked.growth_mib}")


if __name__ == "__main__":
    main()
