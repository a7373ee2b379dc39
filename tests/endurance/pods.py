"""Pods on one machine, over one Postgres: each an orchestrator, a chat worker over a fake engine, an image worker and,
on request, a selfie worker. Each is a process that can be stopped, moved and started anew."""

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.harness import POLL_SECONDS, Program, own_environment, python
from core.keys import new_key

STOP_SECONDS, STOP_DELAY_SECONDS = 60, 2
MODEL, SIZE = "small", "64x64"
KINDS = {"llm": "chat", "image": "image", "vision": "selfie"}
CATALOGUE = """\
[models.small]
source = "{data_dir}"
role = "instruct"
aliases = ["qwen_instruct", "qwen_base"]
abilities = ["chat", "completions", "responses", "embeddings", "tokenize"]
max_model_len = 4096
licence = "none"
args = ["--fake-token-seconds", "TOKEN_SECONDS"]
"""


@dataclass
class Pods:
    """`key` is an admin's, the same at every orchestrator. `pids`: of every process that ever ran."""

    orchestrators: list[Program]
    workers: list[Program]  # pod by pod
    worker_key: str
    key: str = ""
    pids: set[int] = field(default_factory=set)

    @property
    def all(self) -> list[Program]:
        return [*self.orchestrators, *self.workers]

    def of(self, module: str) -> list[Program]:
        return [worker for worker in self.workers if worker.argv[-1] == module]

    async def start(self, program: Program, ready: str = "/readyz") -> float:
        """Seconds until it says that it is ready or, with /healthz, that it lives."""
        began = time.monotonic()
        await program.start(ready)
        self.pids.add(program.family()[0].pid)
        return time.monotonic() - began

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
async def running_pods(
    folder: Path,
    dsn: str,
    http: aiohttp.ClientSession,
    *,
    names: str = "ab",
    modules: Sequence[str] = ("llm", "image"),
    token_seconds: float = 0.02,
) -> AsyncIterator[Pods]:
    """One for each letter of `names`, ready and known to every orchestrator; stopped at the end."""
    (folder / "shared" / "blobs").mkdir(parents=True)
    catalogue = folder / "shared" / "models.toml"
    catalogue.write_text(CATALOGUE.replace("TOKEN_SECONDS", str(token_seconds)))
    pods = _planned(folder, dsn, names, modules)
    first = pods.orchestrators[0]
    try:
        for orchestrator in pods.orchestrators:
            if orchestrator is not first:
                shutil.copytree(first.folder / "keys", orchestrator.folder / "keys")
            await pods.start(orchestrator, "/healthz")
        pods.key = (first.folder / "keys" / "local_api_key").read_text().strip()
        await asyncio.gather(*map(pods.start, pods.workers))
        for worker in pods.workers:
            await pods.routed(http, worker)
        yield pods
    finally:
        await asyncio.gather(*(program.stop() for program in reversed(pods.all)))


def _planned(folder: Path, dsn: str, names: str, modules: Sequence[str]) -> Pods:
    shared, key = folder / "shared", new_key()
    common = own_environment(
        folder,
        WAN_WORKER_API_KEY=key,
        LOG_LEVEL="info",
        OMP_NUM_THREADS="1",
        STOP_SECONDS=str(STOP_SECONDS),
        STOP_DELAY_SECONDS=str(STOP_DELAY_SECONDS),
    )
    settings = {
        "orchestrator": {
            "DATABASE_URL": dsn,
            "READY_NEEDS": ",".join(KINDS[module] for module in modules),
            "DEFAULT_IMAGE_SIZE": SIZE,
        },
        "llm": {
            "VLLM_PYTHON": sys.executable,
            "LLM_ENGINE_MODULE": "tests.fakes.fake_engine",
            "LLM_MODELS": MODEL,
            "LLM_CATALOGUE": str(shared / "models.toml"),
        },
        "image": {"IMAGE_TOKEN_BUDGET": "1024"},
        "vision": {},
    }
    pods = Pods([], [], key)
    for name in names:
        data = folder / name
        data.mkdir()
        (data / "blobs").symlink_to(shared / "blobs")  # as a volume that all have

        def program(module: str, data: Path = data, name: str = name, **more: str) -> Program:
            env = {**common, "DATA_DIR": str(data), **settings[module], **more}
            title = f"{module} of pod {name}"
            return Program(title, python(module), data, env, grace=STOP_SECONDS + 30.0)

        orchestrator = program("orchestrator")
        pods.orchestrators.append(orchestrator)
        pods.workers += [program(module, ORCHESTRATOR_URL=orchestrator.url) for module in modules]
    return pods
