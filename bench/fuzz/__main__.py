"""Hostile requests to every route of all four services: `python -m bench.fuzz [--rounds N] [--seed N] [--at …]`.

NUL, lone surrogates, numbers that nothing holds, bytes that are no UTF-8, broken forms, odd headers, paths and content
types, and what schemathesis makes of each service's own description; over raw sockets, with an admin's key, a worker's
key on the workers. No answer may be a 5xx, and `/readyz` of the service and of the orchestrator must say 200 after
each.

Without `--at` it starts a studio of its own: real processes, a fake engine under the chat worker, the small picture
model. `--at orchestrator=URL --at chat=URL …` asks one that runs; then KEY and WORKER_KEY name the keys.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from bench.fuzz.asked import Asked, requests
from bench.fuzz.studio import studio

ANSWER_SECONDS = 120.0
SHOWN = 40
LEFT_OUT = {
    "image": ("POST /drain",),  # after it the worker is right to say that it is not ready
    "chat": ("POST /memory/unload", "POST /memory/load"),  # after it a model is right not to be there
    "orchestrator": ("POST /v1/keys/{key_id}/revoke",),
    "vision": (),
}
RAW = {
    "chat": ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize", "/detokenize")
}
RESULTS = Path(__file__).parent.parent / "results" / "fuzz.json"


@dataclass
class Found:
    """What became of the requests to one service."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, asked: Asked, status: int, text: bytes) -> None:
        self.statuses[status] += 1
        if status >= 500 or status == 0:
            self.wrong.append(f"{status} {asked} -> {text[:300]!r}")


async def answer(url: str, sent: bytes) -> tuple[int, bytes]:
    """Status and the beginning of the body; 0 and a reason where no answer came."""
    at = urlsplit(url)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(at.hostname, at.port)
            try:
                with contextlib.suppress(ConnectionError):
                    writer.write(sent)
                    await writer.drain()
                return await _read(reader)
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as exc:
        return 0, repr(exc).encode()


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The connection closes after each answer, so all of it is read."""
    head = await reader.readuntil(b"\r\n\r\n")
    body = b""
    while piece := await reader.read(1 << 16):
        body = (body + piece)[:2000]
    return int(head.split(b" ", 2)[1]), body


async def fuzzed(name: str, at: Mapping[str, str], key: str, rounds: int, seed: int, only: str) -> Found:
    """Each request to one service, and after each whether it and the orchestrator are ready."""
    found, url = Found(), at[name]
    _, described = await _whole(url, key)
    ready = b"GET /readyz HTTP/1.1\r\nhost: studio.test\r\nconnection: close\r\n\r\n"
    for asked in requests(described, rounds, seed, LEFT_OUT[name], RAW.get(name, ())):
        if only not in asked.route:
            continue
        found.note(asked, *await answer(url, asked.bytes_for(key)))
        for service in {name, "orchestrator"} & at.keys():
            status, text = await answer(at[service], ready)
            if status != 200:
                found.wrong.append(f"{service} is not ready ({status} {text[:200]!r}) after {asked}")
    return found


async def _whole(url: str, key: str) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as http,
        http.get(f"{url}/openapi.json") as got,
    ):
        return got.status, await got.json()


@contextlib.asynccontextmanager
async def _studio(given: list[str]) -> AsyncIterator[tuple[dict[str, str], str, str]]:
    """Addresses by name, the admin's key, the workers' key."""
    if given:
        yield dict(each.split("=", 1) for each in given), os.environ["KEY"], os.environ["WORKER_KEY"]
        return
    with tempfile.TemporaryDirectory(prefix="soundstage-") as folder:
        async with studio(Path(folder)) as running:
            yield running


async def main(chosen: argparse.Namespace) -> int:
    started, wrong, told = time.monotonic(), 0, {}
    async with _studio(chosen.at) as (at, key, worker_key):
        for name in chosen.service or at:
            found = await fuzzed(
                *(name, at, key if name == "orchestrator" else worker_key),
                *(chosen.rounds, chosen.seed, chosen.only),
            )
            print(
                f"{name}: {sum(found.statuses.values())} requests, {dict(sorted(found.statuses.items()))}", flush=True
            )
            for each in found.wrong[:SHOWN]:
                print("  ", each)
            wrong += len(found.wrong)
            told[name] = {
                "requests": sum(found.statuses.values()),
                "statuses": found.statuses,
                "wrong": len(found.wrong),
            }
    if not chosen.only and not chosen.service:
        result = {"rounds": chosen.rounds, "seed": chosen.seed, "seconds": round(time.monotonic() - started), **told}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{wrong} wrong")
    return 1 if wrong else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("bench.fuzz", description=__doc__)
    made.add_argument("--rounds", type=int, default=5, help="odd requests of each kind and route")
    made.add_argument("--seed", type=int, default=0, help="other requests with another")
    made.add_argument("--only", default="", help="routes that hold this text")
    made.add_argument("--service", action="append", help="orchestrator, chat, image or vision; may come again")
    made.add_argument("--at", action="append", default=[], help="NAME=URL of a service that runs; may come again")
    return made


if __name__ == "__main__":
    sys.exit(asyncio.run(main(parser().parse_args())))
