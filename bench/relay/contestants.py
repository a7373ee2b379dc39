"""Who is measured: each starts in front of the same stand-in engine, as its documentation says it is started."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.relay.peers import LITELLM, VLLM_ROUTER, Peer
from bench.relay.processes import Server, free_port, python, running, without_settings
from bench.relay.traffic import MODEL, PACED_MODEL
from core.keys import new_key
from core.registration import Registrar
from core.wire.workers import Announcement


@dataclass(frozen=True)
class Contestant:
    """`key` is the bearer token it is asked with, `path` where."""

    title: str
    server: Server
    key: str = "unused"
    path: str = "/v1/chat/completions"


Start = Callable[[Server, Path], AbstractAsyncContextManager[Contestant]]
"""Takes the engine and a folder to write in."""


@asynccontextmanager
async def direct(engine: Server, folder: Path) -> AsyncIterator[Contestant]:
    """No proxy at all."""
    yield Contestant("direct", engine)


@asynccontextmanager
async def soundstage(engine: Server, folder: Path) -> AsyncIterator[Contestant]:
    """`python -m orchestrator` with its embedded Postgres, keys, metrics and access log; the worker registers."""
    port, key, data = free_port(), new_key(), folder / "data"
    env = {**without_settings(folder), "PORT": str(port), "DATA_DIR": str(data), "WAN_WORKER_API_KEY": key}
    worker = _announcement(f"http://127.0.0.1:{engine.port}")
    async with running("orchestrator", python("orchestrator"), port, folder, env) as server:
        registrar = Registrar(f"http://127.0.0.1:{port}", key, lambda: worker)
        heartbeat = asyncio.create_task(registrar.run())
        try:
            await _registered(registrar)
            local = (data / "keys" / "local_api_key").read_text().strip()
            yield Contestant("Soundstage", server, local)
        finally:
            heartbeat.cancel()
            await asyncio.wait([heartbeat])


def relay_alone(studio: Contestant) -> Contestant:
    """The same orchestrator on a path that is neither judged nor proved nor recorded: keys, routing, metrics, log."""
    return replace(studio, title="Soundstage, relay alone", path="/v1/embeddings")


def _announcement(url: str) -> Announcement:
    models = [{"id": name, "abilities": ["chat", "embeddings"]} for name in (MODEL, PACED_MODEL)]
    return Announcement.model_validate({"id": "bench", "kind": "chat", "url": url, "models": models, "capacity": 1024})


async def _registered(registrar: Registrar) -> None:
    async with asyncio.timeout(30):
        while not registrar.registered:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.05)


@asynccontextmanager
async def obvious(engine: Server, folder: Path) -> AsyncIterator[Contestant]:
    port = free_port()
    argv = python("bench.relay.obvious", port, f"http://127.0.0.1:{engine.port}")
    async with running("obvious", argv, port, folder) as server:
        yield Contestant("FastAPI + httpx", server)


@asynccontextmanager
async def least(engine: Server, folder: Path) -> AsyncIterator[Contestant]:
    port = free_port()
    argv = python("bench.relay.least", port, f"http://127.0.0.1:{engine.port}")
    async with running("least", argv, port, folder) as server:
        yield Contestant("bare ASGI + aiohttp", server)


@asynccontextmanager
async def vllm_router(engine: Server, folder: Path) -> AsyncIterator[Contestant]:
    port = free_port()
    argv = (
        *(str(VLLM_ROUTER.program), "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
        *("--worker-urls", f"http://127.0.0.1:{engine.port}", "--prometheus-port", str(free_port())),
        *("--policy", "round_robin"),
    )
    async with running("vllm-router", argv, port, folder) as server:
        yield Contestant(VLLM_ROUTER.title, server)


@asynccontextmanager
async def litellm(engine: Server, folder: Path) -> AsyncIterator[Contestant]:
    """One worker process, a master key; nothing that it would fetch or send elsewhere."""
    port, key = free_port(), "sk-bench"
    upstream = {"api_base": f"http://127.0.0.1:{engine.port}/v1", "api_key": "unused"}
    names = (MODEL, PACED_MODEL)
    models = [{"model_name": n, "litellm_params": {"model": f"openai/{n}", **upstream}} for n in names]
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": key}}))
    argv = (str(LITELLM.program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"}
    async with running("litellm", (*argv, "--telemetry", "False"), port, folder, env) as server:
        yield Contestant(LITELLM.title, server, key)


OURS: tuple[Start, ...] = (direct, soundstage, obvious, least)
PEERS: tuple[tuple[Peer, Start], ...] = ((VLLM_ROUTER, vllm_router), (LITELLM, litellm))
