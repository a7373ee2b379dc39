"""Hostile requests to every route of all four services: `python -m tests.endurance.fuzz [ROUNDS] [--seed N]`.

NUL, lone surrogates, numbers that nothing holds, bytes that are no UTF-8, broken forms, odd headers, paths and content
types, and what schemathesis makes of each service's own description; over raw sockets, with an admin's key, a worker's
key on the workers. No answer may be a 5xx, and `/readyz` of the service and of the orchestrator must say 200 after
each. ROUNDS odd requests of each kind and route; `--only TEXT` asks the routes that hold the text.

It starts a pod of real processes over a fake engine and the small picture model. `--at orchestrator=URL,chat=URL,…`
asks services that run; then KEY and WORKER_KEY name the keys.
"""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from bench.harness import status
from core.db.embedded import embedded_postgres
from tests.endurance import harness
from tests.endurance.hostile import requests
from tests.endurance.pods import running_pods

ANSWER_SECONDS = 120.0
MODULES = {"chat": "llm", "image": "image", "vision": "vision"}
LEFT_OUT = {
    "image": ("POST /drain",),  # after it the worker is right to say that it is not ready
    "chat": ("POST /memory/unload", "POST /memory/load"),  # after it a model is right not to be there
    "orchestrator": ("POST /v1/keys/{key_id}/revoke",),
}
UNDESCRIBED = {
    "chat": ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize", "/detokenize")
}


@dataclass
class Outcome:
    """What became of the requests to one service."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def fuzzed(folder: Path, rounds: int, *, seed: int, only: str, at: str) -> dict[str, Any]:
    found: dict[str, Outcome] = {}
    async with _studio(folder, at) as (urls, keys):
        for name in urls:
            found[name] = await _service(name, urls, keys[name], rounds, seed, only)
            print(name, dict(found[name].statuses), *found[name].wrong, sep="\n  ", flush=True)
    return {
        "seed": seed,
        **{name: {"statuses": dict(each.statuses), "wrong": each.wrong[:40]} for name, each in found.items()},
        "holds": {f"{name} has no 5xx and stays ready": not each.wrong for name, each in found.items()},
    }


@contextlib.asynccontextmanager
async def _studio(folder: Path, at: str) -> AsyncIterator[tuple[dict[str, str], dict[str, str]]]:
    """Addresses and keys by the name of a service."""
    if at:
        urls = dict(each.split("=", 1) for each in at.split(","))
        yield urls, {name: os.environ["KEY" if name == "orchestrator" else "WORKER_KEY"] for name in urls}
        return
    async with (
        embedded_postgres(folder / "postgres") as dsn,
        aiohttp.ClientSession() as http,
        running_pods(folder, dsn, http, names="a", modules=tuple(MODULES.values()), token_seconds=0) as pods,
    ):
        workers = {name: pods.of(module)[0].url for name, module in MODULES.items()}
        keys = {"orchestrator": pods.key, **dict.fromkeys(workers, pods.worker_key)}
        yield {"orchestrator": pods.orchestrators[0].url, **workers}, keys


async def _service(name: str, urls: Mapping[str, str], key: str, rounds: int, seed: int, only: str) -> Outcome:
    """Each request to one service, and after each whether it and the orchestrator are ready."""
    found, headers = Outcome(), {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{urls[name]}/openapi.json") as answer:
        described = await answer.json()
    for request in requests(described, rounds, seed, LEFT_OUT.get(name, ()), UNDESCRIBED.get(name, ())):
        if only not in request.route:
            continue
        code, text = await _answer(urls[name], request.bytes_for(key))
        found.statuses[code] += 1
        if code >= 500 or code == 0:
            found.wrong.append(f"{code} {request} -> {text[:300]!r}")
        for service in {name, "orchestrator"} & urls.keys():
            if await status(urlsplit(urls[service]).port or 80, "/readyz") != 200:
                found.wrong.append(f"{service} is not ready after {request}")
    return found


async def _answer(url: str, sent: bytes) -> tuple[int, bytes]:
    """Status and the beginning of the body; 0 and a reason where no answer came. The connection closes after each."""
    at = urlsplit(url)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(at.hostname, at.port)
            with contextlib.closing(writer):
                with contextlib.suppress(ConnectionError):
                    writer.write(sent)
                    await writer.drain()
                head, body = await reader.readuntil(b"\r\n\r\n"), b""
                while piece := await reader.read(1 << 16):
                    body = (body + piece)[:2000]
                return int(head.split(b" ", 2)[1]), body
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as exc:
        return 0, repr(exc).encode()


if __name__ == "__main__":
    harness.end("fuzz", __doc__ or "", fuzzed, unit="rounds", default=5, limit_seconds=14400, seed=0, only="", at="")
