"""A studio of real processes: all four services over an embedded Postgres, a fake engine under the chat worker."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import aiohttp

from bench.relay.processes import BenchError, free_port, without_settings
from compose.services import LOOPBACK, planned
from core.db.embedded import embedded_postgres
from core.keys import new_key
from core.process.child import Child

READY_SECONDS = 300.0
NAMES = {"PORT": "orchestrator", "CHAT_PORT": "chat", "IMAGE_PORT": "image", "SELFIE_PORT": "vision"}
CATALOGUE = """
[models."small"]
aliases = ["qwen_instruct", "qwen_base"]
role = "instruct"
abilities = ["chat", "completions", "responses", "embeddings", "tokenize"]
source = "{folder}"
licence = "MIT"
max_model_len = 4096
"""


@contextlib.asynccontextmanager
async def studio(folder: Path) -> AsyncIterator[tuple[dict[str, str], str, str]]:
    """Its addresses by name, the local key and the workers' key, for as long as the block runs."""
    catalogue = folder / "models.toml"
    catalogue.write_text(CATALOGUE.format(folder=folder))
    engine = {
        "VLLM_PYTHON": sys.executable,
        "LLM_ENGINE_MODULE": "tests.fakes.fake_engine",
        "LLM_CATALOGUE": str(catalogue),
    }
    ports = {name: _port(at) for at, name in enumerate(NAMES)}
    worker_key, children = new_key(), list[Child]()
    async with contextlib.AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(embedded_postgres(folder / "postgres"))
        for service in planned(LOOPBACK, ports, folder, dsn, worker_key, own_engine=True):
            own = engine if service.command.name == "llm" else {}
            env = {**without_settings(folder), **service.command.env, **own, "LLM_MODELS": "small"}
            children.append(child := await Child.start(replace(service.command, env=env)))
            stack.push_async_callback(child.stop)
        urls = {NAMES[name]: f"http://{LOOPBACK}:{port}" for name, port in ports.items()}
        async with aiohttp.ClientSession() as http:
            for url in urls.values():
                await _until_ready(http, url, children)
        yield urls, (folder / "keys" / "local_api_key").read_text().strip(), worker_key


def _port(at: int) -> int:
    """FUZZ_PORT and those after it, where it is given."""
    first = os.environ.get("FUZZ_PORT")
    return int(first) + at if first else free_port()


async def _until_ready(http: aiohttp.ClientSession, url: str, children: Sequence[Child]) -> None:
    """Raises TimeoutError, and BenchError where a service has ended."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            if not all(child.running for child in children):
                raise BenchError("A service ended at its start.")
            await asyncio.sleep(0.5)
