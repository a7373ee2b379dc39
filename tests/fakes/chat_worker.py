"""The chat worker over fake engines: the worker behind a real uvicorn, each engine a real child process."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil

from core.http.relay import Timeouts
from llm.app import create_app
from llm.catalogue import Model
from llm.settings import ChatWorkerSettings
from tests.fakes.serving import serving
from tests.fakes.wait import answers, soon


def instruct(folder: Path, **given: Any) -> Model:
    """A model whose checkpoint is an empty folder: a fake engine loads nothing."""
    entry = {"id": "small", "aliases": ("qwen_instruct",), "role": "instruct", "abilities": ("chat", "completions")}
    return Model(**{**entry, "source": str(folder), "licence": "MIT", "max_model_len": 100, **given})


def base(folder: Path, **given: Any) -> Model:
    entry = {"id": "plain", "aliases": ("qwen_base",), "role": "base", "abilities": ("completions",)}
    return instruct(folder, **{**entry, **given})


class EngineProcess:
    """A running fake engine, found as the operating system knows it."""

    def __init__(self, process: psutil.Process) -> None:
        self.process = process
        command = process.cmdline()
        self.url = f"http://127.0.0.1:{command[command.index('--port') + 1]}"
        self.command = command

    async def behave(self, **behaviour: Any) -> None:
        async with httpx2.AsyncClient(trust_env=False) as client:
            (await soon(client.post(f"{self.url}/fake", json=behaviour))).raise_for_status()

    async def state(self) -> dict[str, Any]:
        async with httpx2.AsyncClient(trust_env=False) as client:
            state: dict[str, Any] = (await soon(client.get(f"{self.url}/fake"))).json()
            return state


def engine_processes(checkpoint: Path, parent: int | None = None) -> dict[str, EngineProcess]:
    """The fake engines below a process (this one) that were started with this checkpoint, by model id."""
    found = {}
    for process in psutil.Process(parent).children(recursive=True):
        try:
            command = process.cmdline()
            if command[1:5] == ["-m", "tests.fakes.fake_engine", "--model", str(checkpoint)]:
                found[command[command.index("--served-model-name") + 1]] = EngineProcess(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


class ChatWorker:
    """Its checkpoints, the fake engines', are its data directory."""

    def __init__(self, port: int, http: httpx2.AsyncClient, data_dir: Path) -> None:
        self.port = port
        self.http = http
        self._data_dir = data_dir

    def engines(self) -> dict[str, EngineProcess]:
        return engine_processes(self._data_dir)

    async def chat(self, content: str = "one two", **body: Any) -> httpx2.Response:
        sent = {"model": "small", "messages": [{"role": "user", "content": content}], **body}
        return await self.http.post("/v1/chat/completions", json=sent)

    async def get(self, path: str) -> Any:
        return (await soon(self.http.get(path))).json()

    async def ready(self) -> bool:
        return (await self.http.get("/readyz")).status_code == 200


@asynccontextmanager
async def chat_worker(
    data_dir: Path, models: Sequence[Model], *, timeouts: Timeouts | None = None, wait: bool = True, **given: Any
) -> AsyncIterator[ChatWorker]:
    """A worker of these models, ready unless told not to wait for that."""
    settings = ChatWorkerSettings.load(
        **{
            "data_dir": data_dir,
            "vllm_python": sys.executable,
            "llm_engine_module": "tests.fakes.fake_engine",
            "orchestrator_url": None,
            **given,
        }
    )
    key = settings.worker_key
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with serving(create_app(settings, models, timeouts)) as port:
        url = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=120, trust_env=False) as http:
            worker = ChatWorker(port, http, data_dir)
            if wait:
                await answers(worker.ready, "a ready worker")
            yield worker
