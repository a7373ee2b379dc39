"""Orchestrators over one database, in front of stand-in engines: what every bench of pipelines starts."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.relay.processes import free_port, running
from core.db.embedded import embedded_postgres

PATH = "/v1/chat/1to1/imagegen"
ASKED = {"message": "a red apple on a table", "seed": 1, "partial_images": 0}
START_SECONDS = 240.0
WORKER_KEY = "the-worker-key"


@dataclass
class Orchestrator:
    """One process. It can be killed, and is then started again under the same port."""

    port: int
    folder: Path
    given: dict[str, str]
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.folder / "keys" / "local_api_key").read_text().strip()

    async def start(self) -> None:
        with (self.folder / f"{self.port}.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "orchestrator"), env={**os.environ, **self.given}, stdout=log, stderr=log
            )
        until = time.monotonic() + START_SECONDS
        async with aiohttp.ClientSession() as http:
            while time.monotonic() < until:
                if self.process.returncode is not None:
                    said = Path(log.name).read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"The orchestrator on {self.port} ended by itself: {said}")
                try:
                    async with http.get(f"{self.url}/readyz") as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass
                await asyncio.sleep(0.1)
        raise RuntimeError("The orchestrator does not become ready.")

    async def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.returncode is None:
            os.kill(self.process.pid, number)
            await self.process.wait()


@dataclass
class Bench:
    """What is running: orchestrators, the engines' process, and the database."""

    orchestrators: list[Orchestrator]
    engines: str
    dsn: str

    async def counts(self, http: aiohttp.ClientSession) -> dict[str, dict[str, int]]:
        async with http.get(f"{self.engines}/counts") as answer:
            found: dict[str, dict[str, int]] = await answer.json()
            return found


@asynccontextmanager
async def studio(
    folder: Path, orchestrators: int = 1, images: int = 1, seconds: float = 0.0, capacity: int | None = None
) -> AsyncIterator[Bench]:
    """`images` image workers whose requests, as the chat engine's, take `seconds`. With a `capacity` they announce
    themselves, and so many requests are asked of each at once."""
    engines = free_port()
    url = f"http://127.0.0.1:{engines}"
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(embedded_postgres(folder / "postgres"))
        command = (sys.executable, "-m", "bench.pipelines.engines", str(engines), str(seconds))
        await stack.enter_async_context(running("engines", command, engines, folder))
        found = []
        for _ in range(orchestrators):
            port = free_port()
            given = {
                **{"DATABASE_URL": dsn, "DATA_DIR": str(folder), "PORT": str(port), "LOG_LEVEL": "error"},
                **{"LLM_URL": url, "READY_NEEDS": "chat,image", "JOBS_GRACE_SECONDS": "1"},
                **{"WAN_WORKER_API_KEY": WORKER_KEY, "LEASE_SECONDS": "600"},
            }
            if capacity is None:
                given["INTERFACE_CHAT1TO1_WORKER_URLS"] = ",".join(f"{url}/{number}" for number in range(images))
            else:
                given["READY_NEEDS"] = "chat"
            one = Orchestrator(port, folder, given)
            stack.push_async_callback(one.end)
            await one.start()
            found.append(one)
        if capacity is not None:
            await _announced(found, url, images, capacity)
        yield Bench(found, url, dsn)


async def _announced(orchestrators: list[Orchestrator], url: str, images: int, capacity: int) -> None:
    """Each worker at one orchestrator, until all of them know it."""
    models = [{"id": "image", "abilities": ["images"]}]
    async with aiohttp.ClientSession(headers=headers(WORKER_KEY)) as http:
        for number in range(images):
            body = {"id": f"image-{number}", "kind": "image", "url": f"{url}/{number}", "models": models}
            own = {"roles": ["chat1to1"], "capacity": capacity}
            async with http.post(f"{orchestrators[0].url}/v1/workers", json={**body, **own}) as answer:
                assert answer.status == 200, await answer.text()
        for one in orchestrators:
            await _knows(http, one, images)


async def _knows(http: aiohttp.ClientSession, one: Orchestrator, images: int) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        async with http.get(f"{one.url}/v1/workers", headers=headers(one.key)) as answer:
            if sum(worker["kind"] == "image" for worker in (await answer.json())["data"]) == images:
                return
        await asyncio.sleep(0.2)
    raise RuntimeError("The workers do not become known.")


def headers(key: str) -> dict[str, Any]:
    return {"authorization": f"Bearer {key}"}
