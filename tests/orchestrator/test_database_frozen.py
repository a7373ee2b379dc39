"""The database is stopped (SIGSTOP): it closes and answers nothing. Known keys go on; what needs it is a 503."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from core.db.embedded import embedded_postgres
from core.db.migrate import migrate
from core.db.pool import open_pool
from orchestrator.access.keys import create_key
from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import answers, soon

pytestmark = pytest.mark.slow  # a server of its own

CHAT = {"model": "small", "max_tokens": 10, "messages": [{"role": "user", "content": "one two"}]}


@contextmanager
def frozen(directory: Path) -> Iterator[None]:
    """The server and every process of it."""
    server = psutil.Process(int((directory / "postmaster.pid").read_text().split()[0]))
    stopped = [server, *server.children(recursive=True)]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(stopped):
            process.send_signal(signal.SIGCONT)


async def test_known_keys_go_on_and_others_are_told_within_the_time(postgres_directory: Path, tmp_path: Path) -> None:
    async with embedded_postgres(postgres_directory) as dsn:
        await migrate(dsn)
        async with open_pool(dsn, size=1) as pool:
            stranger = await create_key(pool, "not seen before", ["chat"])
        async with studio_over(dsn, tmp_path, lease_seconds=600, database_seconds=3) as studio:
            await studio.chat_worker()
            await answers(lambda: _is(studio, studio.key, 200), "an answer")
            with frozen(postgres_directory):
                asked = (_chat(studio, stranger), _chat(studio, "unknown"), studio.get("/v1/keys"))
                told = [asyncio.ensure_future(each) for each in asked]
                while not all(each.done() for each in told):
                    assert (await _chat(studio, studio.key)).status_code == 200
                for refused in await soon(asyncio.gather(*told)):
                    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
                    assert refused.headers["retry-after"]
                assert (await studio.http.get("/healthz")).status_code == 200
            await answers(lambda: _is(studio, stranger, 200), "a key that was not known")
            await answers(lambda: _ready(studio), "readiness")


async def _chat(studio: Studio, key: str) -> httpx2.Response:
    return await studio.post("/v1/chat/completions", CHAT, key=key)


async def _is(studio: Studio, key: str, status: int) -> bool:
    return (await _chat(studio, key)).status_code == status


async def _ready(studio: Studio) -> bool:
    return (await studio.http.get("/readyz")).status_code == 200
