"""What every measurement shares: server processes, a studio in front of engines, quantiles, the machine, results."""

import asyncio
import contextlib
import json
import os
import platform
import socket
import sys
import timeit
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped,unused-ignore]

from core.keys import new_key
from core.process.child import Child, Command
from core.registration import Registrar
from core.wire.workers import Announcement

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
START_SECONDS, POLL_SECONDS = 180.0, 0.1
PACKAGES = ("aiohttp", "uvicorn", "uvloop", "httptools", "fastapi", "httpx")


class BenchError(Exception):
    """A part of the bench does not run; the message says which and why."""


def python(module: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *map(str, arguments))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def status(port: int, path: str, *, seconds: float = 60.0) -> int:
    """Of a GET on this machine; 0 where no HTTP answer comes within this time."""
    with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            line = await reader.readline()
            writer.close()
            return int(line.split(b" ", 2)[1])
    return 0


@dataclass
class Program:
    """A server process on a leash, with whatever it starts itself. It is told its port as PORT; its log is
    FOLDER/NAME.log, on which every start of it writes."""

    name: str
    argv: tuple[str, ...]
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    grace: float = 20.0
    child: Child | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    async def start(self, ready: str | None = None) -> None:
        """Until it answers `ready` with 200 or, without, anything at all. Raises BenchError."""
        env = {**self.env, "PORT": str(self.port), "PUBLIC_URL": self.url}
        self.child = await Child.start(Command(self.name, self.argv, self.log, env, cwd=ROOT, grace=self.grace))
        for _ in range(int(START_SECONDS / POLL_SECONDS)):
            answer = await status(self.port, ready or "/healthz", seconds=5)
            if answer == 200 or (answer and ready is None):
                return
            if not self.child.running:
                break
            await asyncio.sleep(POLL_SECONDS)
        raise BenchError(f"{self.name} does not start: {self.log.read_text(errors='replace')[-2000:]}")

    async def stop(self) -> None:
        if self.child is not None:
            await self.child.stop()

    def family(self) -> list[psutil.Process]:
        """The command itself, then what it started; the leash, the bench's own, is not among them."""
        assert self.child
        return list(psutil.Process(self.child.pid).children(recursive=True))

    def cpu_seconds(self) -> float:
        """User and system time so far, of the living."""
        return float(sum(sum(process.cpu_times()[:2]) for process in self.family()))

    def resident_mib(self) -> float:
        return round(sum(process.memory_info().rss for process in self.family()) / 2**20, 1)


@asynccontextmanager
async def running(program: Program, ready: str | None = None) -> AsyncIterator[Program]:
    """It runs for as long as the block. Raises BenchError where it does not start."""
    try:
        await program.start(ready)
        yield program
    finally:
        await program.stop()


def own_environment(folder: Path, **given: str) -> dict[str, str]:
    """`given`, and nothing from a settings file or this shell that would change what is measured."""
    empty = folder / "empty.toml"
    empty.touch()
    named = ("HOST", "DATABASE_URL", "LLM_URL", "LOG_LEVEL", "LOG_FORMAT", "MAX_BODY_BYTES", "IMAGE_WORKER_URLS")
    return {"SOUNDSTAGE_SETTINGS": str(empty), **{name: "" for name in named if name in os.environ}, **given}


@dataclass(frozen=True)
class Studio:
    """An orchestrator; `key` is its local one, which may do everything but register workers."""

    program: Program
    key: str

    @property
    def url(self) -> str:
        return self.program.url

    @property
    def admin(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    async def new_key(self, session: aiohttp.ClientSession, name: str, tenant: str | None = None) -> str:
        """The secret of a key that may chat, of a new tenant where one is named."""
        body = {"name": name, "scopes": ["chat"], **({"tenant": tenant} if tenant else {})}
        if tenant:
            (await session.put(f"{self.url}/v1/tenants/{tenant}", json={}, headers=self.admin)).raise_for_status()
        async with session.post(f"{self.url}/v1/keys", json=body, headers=self.admin) as answer:
            answer.raise_for_status()
            secret: str = (await answer.json())["secret"]
            return secret


def chat_worker(name: str, port: int, *models: str, capacity: int = 1024) -> Announcement:
    served = [{"id": model, "abilities": ["chat", "embeddings"]} for model in models]
    url = f"http://127.0.0.1:{port}"
    return Announcement.model_validate({"id": name, "kind": "chat", "url": url, "models": served, "capacity": capacity})


@asynccontextmanager
async def studio(folder: Path, *workers: Announcement, **env: str) -> AsyncIterator[Studio]:
    """`python -m orchestrator` with an embedded Postgres unless `env` names another; the workers are registered and
    heartbeat."""
    data, worker_key = folder / "data", new_key()
    given = own_environment(folder, DATA_DIR=str(data), WAN_WORKER_API_KEY=worker_key, **env)
    program = Program("orchestrator", python("orchestrator"), folder, given)
    async with running(program), AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(_registered(program.url, worker_key, worker))
        yield Studio(program, (data / "keys" / "local_api_key").read_text().strip())


@asynccontextmanager
async def _registered(url: str, key: str, worker: Announcement) -> AsyncIterator[None]:
    registrar = Registrar(url, key, lambda: worker)
    heartbeat = asyncio.create_task(registrar.run())
    try:
        async with asyncio.timeout(START_SECONDS):
            while not registrar.registered:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(0.05)
        yield
    finally:
        heartbeat.cancel()
        await asyncio.wait([heartbeat])


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which that share lies; nan where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def machine(*packages: str) -> dict[str, str]:
    """What figures were taken on, in words that name no host. A load above the cores: others' work is in them."""
    return {
        "CPU": _cpu_model(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "10 million turns of an empty loop": f"{timeit.timeit('pass', number=10_000_000):.2f} s",
        "load of the last minute": f"{os.getloadavg()[0]:.1f}",
        "packages": ", ".join(f"{name} {version(name)}" for name in packages or PACKAGES),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def save(name: str, found: Any, page: str | None = None, folder: Path = RESULTS) -> None:
    """NAME.json, and NAME.md where there is a page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if page is not None:
        (folder / f"{name}.md").write_text(page, "utf-8")


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Markdown; every column but the first to the right."""
    columns = list(head)
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
