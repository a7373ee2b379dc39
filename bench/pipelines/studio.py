"""A studio whose every process can be killed: orchestrators over one database, and workers that compute nothing."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.harness import Program, own_environment, python
from core.db.embedded import embedded_postgres

TOLD = ("expand", "generate", "caption")
STEPS = {
    "chat1to1": TOLD,
    "shorts": TOLD,
    "scenes": TOLD,
    "private": ("generate",),
    "imagegen": ("generate",),
    "profile": ("prompt", "generate"),
}
PATHS = {
    "chat1to1": "/v1/chat/1to1/imagegen",
    "shorts": "/v1/chat/shorts/generate",
    "scenes": "/v1/chat/scenes/generate",
    "private": "/v1/chat/private/imagegen",
    "imagegen": "/v1/imagegen",
    "profile": "/v1/profile/create",
}
WORKER_KEY = "the-worker-key-of-the-bench"


Calls = dict[str, dict[str, list[float]]]
"""Of each idempotency key: when it was begun, finished, ended before its time, at whichever engine."""


async def kill(program: Program) -> None:
    """kill -9 of the program itself."""
    program.family()[0].kill()
    await program.stop()


def _postgres(folder: Path) -> list[Any]:
    main = psutil.Process(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]))
    return [main, *main.children(recursive=True)]


async def freeze_database(folder: Path, seconds: float) -> None:
    """It is there, and says nothing."""
    processes = _postgres(folder)
    for one in processes:
        one.suspend()
    await asyncio.sleep(seconds)
    for one in reversed(processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.resume()


async def kill_database(folder: Path, seconds: float) -> None:
    """It is gone, and comes back with what its disk has, when the process that keeps it may go on."""
    keeper = next(one for one in psutil.Process().children() if "core.db.embedded" in one.cmdline())
    keeper.suspend()
    _postgres(folder)[0].kill()
    await asyncio.sleep(seconds)
    keeper.resume()


@dataclass
class Studio:
    """What is running."""

    folder: Path
    dsn: str
    orchestrators: list[Program]
    engines: dict[str, Program]
    http: aiohttp.ClientSession

    @property
    def images(self) -> list[Program]:
        return [program for name, program in self.engines.items() if name.startswith("image")]

    @property
    def headers(self) -> dict[str, str]:
        """Of the local key, which may do everything but register workers."""
        return {"authorization": f"Bearer {(self.folder / 'keys' / 'local_api_key').read_text().strip()}"}

    async def get(self, url: str, headers: dict[str, str] | None = None) -> Any:
        async with self.http.get(url, headers=headers or self.headers) as answer:
            if answer.status != 200:
                raise aiohttp.ClientError(await answer.text())
            return await answer.json()

    async def new_key(self, tenant: str) -> dict[str, str]:
        """The headers of a key of a new tenant."""
        url = self.orchestrators[0].url
        (await self.http.put(f"{url}/v1/tenants/{tenant}", json={}, headers=self.headers)).raise_for_status()
        body = {"name": tenant, "tenant": tenant, "scopes": ["pipelines"]}
        async with self.http.post(f"{url}/v1/keys", json=body, headers=self.headers) as answer:
            return {"authorization": f"Bearer {(await answer.json())['secret']}"}

    def cpu_seconds(self) -> float:
        """Of the orchestrators so far."""
        return sum(one.cpu_seconds() for one in self.orchestrators)

    def begun(self) -> int:
        """How many requests of runs were begun so far, by all engines."""
        return sum(line.startswith(b"begun job_") for line in (self.folder / "calls.log").read_bytes().splitlines())

    def calls(self) -> Calls:
        found: Calls = defaultdict(lambda: defaultdict(list))
        for line in (self.folder / "calls.log").read_text().splitlines():
            event, key, at = line.split()
            if key != "none":
                found[key][event].append(float(at))
        return found

    async def running(self) -> int:
        """Requests that the engines work on now."""
        return sum([(await self.get(f"{engine.url}/state"))["running"] for engine in self.engines.values()])


@asynccontextmanager
async def studio(
    folder: Path,
    *,
    orchestrators: int = 1,
    images: int = 1,
    tick: float = 0.0,
    capacity: int | None = None,
    **settings: str,
) -> AsyncIterator[Studio]:
    """All of it, ready. With a `capacity` the image workers announce themselves, and so many requests are asked of each
    at once."""
    log = folder / "calls.log"
    log.touch()
    names = ("chat", "selfie", *(f"image-{number}" for number in range(images)))
    engines = {
        name: Program(name, python("bench.pipelines.engine", name.partition("-")[0], tick, log), folder)
        for name in names
    }
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(embedded_postgres(folder / "postgres"))
        for program in engines.values():
            stack.push_async_callback(program.stop)
            await program.start("/readyz")
        drawing = ",".join(program.url for name, program in engines.items() if name.startswith("image"))
        given = own_environment(
            folder,
            **{"DATABASE_URL": dsn, "DATA_DIR": str(folder), "LOG_LEVEL": "warning"},
            **{"LLM_URL": engines["chat"].url, "INTERFACE_SELFIE_FEATURE_WORKER_URLS": engines["selfie"].url},
            **{"JOBS_GRACE_SECONDS": "1", "WAN_WORKER_API_KEY": WORKER_KEY, "LEASE_SECONDS": "600"},
            **({"READY_NEEDS": "chat,selfie"} if capacity else {"READY_NEEDS": "chat,image,selfie"}),
            **({} if capacity else {f"INTERFACE_{role}_WORKER_URLS": drawing for role in _ROLES}),
            **({} if capacity else {"IMAGE_WORKER_URLS": drawing}),
            **settings,
        )
        programs = [
            Program(f"orchestrator-{number}", python("orchestrator"), folder, given) for number in range(orchestrators)
        ]
        for program in programs:
            stack.push_async_callback(program.stop)
            await program.start("/readyz")
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        running = Studio(folder, dsn, programs, engines, http)
        if capacity:
            await _announce(running, capacity)
        yield running


_ROLES = ("PROFILE", "CHAT1TO1", "SHORTS", "SCENES")


async def _announce(studio: Studio, capacity: int) -> None:
    """Each image worker at one orchestrator, until all of them know it."""
    models = [{"id": "image", "abilities": ["images"]}]
    key = {"authorization": f"Bearer {WORKER_KEY}"}
    for program in studio.images:
        body = {"id": program.name, "kind": "image", "url": program.url, "models": models, "capacity": capacity}
        url = f"{studio.orchestrators[0].url}/v1/workers"
        (await studio.http.post(url, json={**body, "roles": ["chat1to1"]}, headers=key)).raise_for_status()
    async with asyncio.timeout(60):
        for one in studio.orchestrators:
            while await _known(studio, one) < len(studio.images):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.2)


async def _known(studio: Studio, orchestrator: Program) -> int:
    workers = (await studio.get(f"{orchestrator.url}/v1/workers"))["data"]
    return sum(worker["kind"] == "image" for worker in workers)
