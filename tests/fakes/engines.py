"""The openai clients of an orchestrator whose workers are respx's routes: no server, no database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2

from core.db.pool import make_pool
from core.http.relay import Relay
from core.wire.workers import Announcement, Kind
from orchestrator.engines.client import Engines
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.rules import Rules

URL = "http://engine.test"
"""Where the worker is that `pool_of` knows."""
MODEL = {"id": "small-1", "aliases": ["small"], "abilities": ["chat", "responses", "tokenize", "moderations"]}


def mocked_transport() -> httpx2.AsyncBaseTransport:
    """What the fixture `httpx2_mock` answers in place of."""
    return httpx2.AsyncHTTPTransport(verify=False)


def pool_of(*workers: tuple[str, Kind, str], models: list[dict[str, Any]] | None = None) -> WorkerPool:
    """Workers, each given as id, kind and URL, with the key `worker-key`. They call `small` `small-1`."""
    pool = WorkerPool(make_pool(""), None, 600, Rules())
    for name, kind, url in workers:
        announcement = Announcement.model_validate({"id": name, "kind": kind, "url": url, "models": models or [MODEL]})
        pool.add_static(announcement, key="worker-key", rewrites={"small": "small-1"}, seconds=600)
    return pool


@asynccontextmanager
async def mocked_engines(pool: WorkerPool) -> AsyncIterator[Engines]:
    async with Engines(pool, Relay(), mocked_transport()) as engines:
        yield engines


class Stream(httpx.AsyncByteStream):
    """A body in these pieces; one that is an exception breaks it off."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
