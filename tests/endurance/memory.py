"""The memory of the image and the selfie worker over many requests: `python -m tests.endurance.memory [REQUESTS]`.

Real processes with the small models. Of the image worker's clients a third hang up at some moment; of the selfie
worker's photos every tenth is broken. Memory may not grow from the third quarter of the requests to the last.
"""

import asyncio
import io
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from bench.harness import Program, own_environment, python, running
from image import malloc_trim
from tests.endurance import harness
from tests.vision.photos import ASTRONAUT, encoded, photo
from training import untrained

CLIENTS, PARTS = 8, 20
SIDES = (64, 96, 128)
GROWTH = 0.02  # of the memory, from the third quarter to the last: what a reading is off by
Ask = Callable[[aiohttp.ClientSession, str, int], Awaitable[str]]
"""One request, by its number; what became of it."""


async def remembered(folder: Path, requests: int) -> dict[str, Any]:
    chance = random.Random(0)
    sound = encoded(photo(ASTRONAUT).resize((1600, 1600)), "JPEG", quality=90)
    found: dict[str, dict[str, Any]] = {}

    async def picture(session: aiohttp.ClientSession, url: str, number: int) -> str:
        size = f"{chance.choice(SIDES)}x64"
        body = {"prompt": f"boat {number}", "size": size, "steps": 3, "stream": True, "partial_images": 1}
        try:
            async with asyncio.timeout(chance.uniform(0.0, 0.3) if chance.random() < 1 / 3 else None):
                async with session.post(f"{url}/v1/images/generations", json=body) as answer:
                    return "finished" if b"image_generation.completed" in await answer.read() else "refused"
        except TimeoutError:
            return "left"

    async def selfie(session: aiohttp.ClientSession, url: str, number: int) -> str:
        form = aiohttp.FormData()
        photo = sound[: len(sound) // 2] if number % 10 == 9 else sound
        form.add_field("image", io.BytesIO(photo), filename="photo")
        async with session.post(f"{url}/v1/profile/analyze", data=form) as answer:
            await answer.read()
            return str(answer.status)

    for name, ask in (("image", picture), ("vision", selfie)):
        async with _worker(folder, name) as worker:
            found[name] = await _course(worker, requests, ask)
    return {**found, "holds": {f"{name}: memory is flat": each["growth"] < GROWTH for name, each in found.items()}}


@asynccontextmanager
async def _worker(folder: Path, module: str) -> AsyncIterator[Program]:
    env = own_environment(folder, DATA_DIR=str(folder), ORCHESTRATOR_URL="", VISION_QUEUE_MAX="64")
    if module == "image":
        env |= {
            "IMAGE_MODEL": str(untrained.ensure(folder / untrained.MODEL)),
            "IMAGE_THREADS": "1",
            "IMAGE_DEFAULT_SIZE": "128x128",
            "IMAGE_TOKEN_BUDGET": "2000",
            "IMAGE_EMBEDDING_CACHE_MB": "1",  # full within the first half: every prompt is new
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0",  # else PyTorch's kernels are kept by shape, up to 1,024 of them
        }
    async with running(Program(module, python(module), folder, env), "/readyz") as program:
        yield program


async def _course(worker: Program, requests: int, ask: Ask) -> dict[str, Any]:
    """Resident MiB after each of up to PARTS, and its growth from the third quarter to the last, by their medians."""
    answers: Counter[str] = Counter()
    memory, parts = [], min(PARTS, max(4, requests // 50))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS)) as session:
        for part in range(parts):
            numbers = iter(range(part * requests // parts, (part + 1) * requests // parts))

            async def client(numbers: Any = numbers) -> None:
                for number in numbers:
                    answers[await ask(session, worker.url, number)] += 1

            await asyncio.gather(*(client() for _ in range(CLIENTS)))
            await asyncio.sleep(2 * malloc_trim.SECONDS + 1)  # by then a worker has given back what it freed
            memory.append(worker.resident_mib())
            print(worker.name, sum(answers.values()), "requests:", memory[-1], "MiB", flush=True)
    quarter = parts // 4
    third, last = median(memory[-2 * quarter : -quarter]), median(memory[-quarter:])
    return {"answers": dict(answers), "resident_mib": memory, "growth": round(last / third - 1, 4)}


if __name__ == "__main__":
    harness.end("memory", __doc__ or "", remembered, unit="requests", default=2000, limit_seconds=7200)
