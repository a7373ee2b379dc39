"""Who is measured: each starts in front of the same stand-in engine, as its documentation says it is started."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.harness import Program, chat_worker, free_port, python, running, studio
from bench.relay.peers import LITELLM, VLLM_ROUTER, Peer
from bench.traffic import MODEL, PACED_MODEL

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Contestant:
    """`key` is the bearer token it is asked with, `path` where."""

    title: str
    program: Program
    key: str = "unused"
    path: str = CHAT


Start = Callable[[Program, Path], AbstractAsyncContextManager[Contestant]]
"""Takes the engine and a folder to write in."""


@asynccontextmanager
async def direct(engine: Program, folder: Path) -> AsyncIterator[Contestant]:
    """No proxy at all."""
    yield Contestant("direct", engine)


@asynccontextmanager
async def soundstage(engine: Program, folder: Path) -> AsyncIterator[Contestant]:
    """The orchestrator with everything on: keys, policy, records, metrics, access log."""
    async with studio(folder, chat_worker("bench", engine.port, MODEL, PACED_MODEL)) as whole:
        yield Contestant("Soundstage", whole.program, whole.key)


def relay_alone(whole: Contestant) -> Contestant:
    """The same orchestrator on a path that is neither judged nor proved nor recorded: keys, routing, metrics, log."""
    return replace(whole, title="Soundstage, relay alone", path="/v1/embeddings")


def _plain(which: str, title: str) -> Start:
    @asynccontextmanager
    async def start(engine: Program, folder: Path) -> AsyncIterator[Contestant]:
        port = free_port()
        argv = python("bench.relay.plain", which, port, engine.url)
        async with running(Program(which, argv, folder, port=port)) as program:
            yield Contestant(title, program)

    return start


@asynccontextmanager
async def vllm_router(engine: Program, folder: Path) -> AsyncIterator[Contestant]:
    port = free_port()
    argv = (
        *(str(VLLM_ROUTER.program), "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
        *("--worker-urls", engine.url, "--prometheus-port", str(free_port()), "--policy", "round_robin"),
    )
    async with running(Program("vllm-router", argv, folder, port=port)) as program:
        yield Contestant(VLLM_ROUTER.title, program)


@asynccontextmanager
async def litellm(engine: Program, folder: Path) -> AsyncIterator[Contestant]:
    """One worker process, a master key; nothing that it would fetch or send elsewhere."""
    port, key = free_port(), "sk-bench"
    upstream = {"api_base": f"{engine.url}/v1", "api_key": "unused"}
    names = (MODEL, PACED_MODEL)
    models = [{"model_name": n, "litellm_params": {"model": f"openai/{n}", **upstream}} for n in names]
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": key}}))
    argv = (str(LITELLM.program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"}
    async with running(Program("litellm", (*argv, "--telemetry", "False"), folder, env, port)) as program:
        yield Contestant(LITELLM.title, program, key)


OURS: tuple[Start, ...] = (
    direct,
    soundstage,
    _plain("obvious", "FastAPI + httpx"),
    _plain("least", "bare ASGI + aiohttp"),
)
PEERS: tuple[tuple[Peer, Start], ...] = ((VLLM_ROUTER, vllm_router), (LITELLM, litellm))
