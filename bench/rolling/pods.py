"""Two pods on one machine: an orchestrator, a chat worker over the fake engine and an image worker each, over one
Postgres. Each is a process of its own, as compose/pod.sh starts it, that can be stopped, moved and started anew."""

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.relay.processes import free_port, without_settings
from core.keys import new_key
from core.process.child import Child, Command

START_SECONDS, POLL_SECONDS = 180.0, 0.1
STOP_SECONDS, STOP_DELAY_SECONDS = 60, 2
TOKEN_SECONDS = 0.02
MODEL, SIZE = "small", "64x64"
CATALOGUE = f"""\
[models.{MODEL}]
source = "{{data_dir}}"
role = "instruct"
aliases = ["qwen_instruct"]
abilities = ["chat", "completions"]
max_model_len = 4096
licence = "none"
args = ["--fake-token-seconds", "{TOKEN_SECONDS}"]
"""


@dataclass
class Program:
    """One process of a pod. `log` is written on by every one that has its place."""

    pod: str
    module: str
    folder: Path
    given: Mapping[str, str]
    port: int = field(default_factory=free_port)
    child: Child | None = None
    pids: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.module} of pod {self.pod}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.module}.log"

    async def start(self, http: aiohttp.ClientSession, path: str = "/readyz") -> float:
        """Seconds until it says that it is ready or, with /healthz, that it lives."""
        began = time.monotonic()
        env = {**self.given, "PORT": str(self.port), "PUBLIC_URL": self.url}
        argv = (sys.executable, "-m", self.module)
        self.child = await Child.start(Command(self.module, argv, self.log, env, grace=STOP_SECONDS + 30.0))
        while not await says_yes(http, self.url + path):
            if not self.child.running or time.monotonic() - began > START_SECONDS:
                raise RuntimeError(f"{self.name} does not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(POLL_SECONDS)
        self.pids.append(psutil.Process(self.child.pid).children()[0].pid)
        return time.monotonic() - began

    async def stop(self) -> float:
        """SIGTERM, as an upgrade does it; seconds until it has ended."""
        began = time.monotonic()
        if self.child is not None:
            await self.child.stop()
        return time.monotonic() - began


async def says_yes(http: aiohttp.ClientSession, url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with http.get(url, timeout=aiohttp.ClientTimeout(total=2)) as answer:
            return answer.status == 200
    return False


@dataclass
class Pods:
    """All processes: orchestrators first. `key` is a caller's, the same at both."""

    orchestrators: list[Program]
    chats: list[Program]
    images: list[Program]
    worker_key: str
    key: str = ""

    @property
    def all(self) -> list[Program]:
        return [*self.orchestrators, *self.chats, *self.images]

    async def routed(self, http: aiohttp.ClientSession, worker: Program) -> None:
        """Until every orchestrator would send requests to this worker at its address."""
        for orchestrator in self.orchestrators:
            while worker.url not in await self._ready(http, orchestrator):  # noqa: ASYNC110 - processes have no event
                await asyncio.sleep(POLL_SECONDS)

    async def _ready(self, http: aiohttp.ClientSession, orchestrator: Program) -> set[str]:
        """Where the workers are that an orchestrator would ask."""
        headers = {"authorization": f"Bearer {self.key}"}
        async with http.get(f"{orchestrator.url}/v1/workers", headers=headers) as answer:
            listed = (await answer.json())["data"]
        return {one["url"].rstrip("/") for one in listed if one["ready"] and not one["draining"]}


@contextlib.asynccontextmanager
async def two_pods(folder: Path, dsn: str, http: aiohttp.ClientSession) -> AsyncIterator[Pods]:
    """Both, ready and known to both orchestrators; stopped at the end."""
    pods = _planned(folder, dsn)
    try:
        first, second = pods.orchestrators
        await first.start(http, "/healthz")
        shutil.copytree(first.folder / "keys", second.folder / "keys")
        pods.key = (first.folder / "keys" / "local_api_key").read_text().strip()
        await second.start(http, "/healthz")
        await asyncio.gather(*(worker.start(http) for worker in (*pods.chats, *pods.images)))
        for worker in (*pods.chats, *pods.images):
            await pods.routed(http, worker)
        yield pods
    finally:
        await asyncio.gather(*(program.stop() for program in reversed(pods.all)))


def _planned(folder: Path, dsn: str) -> Pods:
    shared, key = folder / "shared", new_key()
    (shared / "blobs").mkdir(parents=True)
    (shared / "models.toml").write_text(CATALOGUE)
    common = {
        **without_settings(folder),
        **{"WAN_WORKER_API_KEY": key, "LOG_LEVEL": "info", "OMP_NUM_THREADS": "1"},
        **{"STOP_SECONDS": str(STOP_SECONDS), "STOP_DELAY_SECONDS": str(STOP_DELAY_SECONDS)},
    }
    found = Pods([], [], [], key)
    for name in ("a", "b"):
        data = folder / name
        data.mkdir()
        (data / "blobs").symlink_to(shared / "blobs")  # as a volume that both have
        own = {**common, "DATA_DIR": str(data)}
        entry = {"DATABASE_URL": dsn, "READY_NEEDS": "chat,image", "DEFAULT_IMAGE_SIZE": SIZE}
        orchestrator = Program(name, "orchestrator", data, {**own, **entry})
        own["ORCHESTRATOR_URL"] = orchestrator.url
        engine = {"VLLM_PYTHON": sys.executable, "LLM_ENGINE_MODULE": "tests.fakes.fake_engine", "LLM_MODELS": MODEL}
        engine["LLM_CATALOGUE"] = str(shared / "models.toml")
        found.orchestrators.append(orchestrator)
        found.chats.append(Program(name, "llm", data, {**own, **engine}))
        found.images.append(Program(name, "image", data, {**own, "IMAGE_TOKEN_BUDGET": "1024"}))
    return found
