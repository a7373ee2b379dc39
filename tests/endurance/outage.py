"""The database is away for a minute: `python -m tests.endurance.outage [SECONDS]`.

A real orchestrator whose line to its Postgres is cut, with its own times (leases of 15 s), in front of a stand-in
engine that heartbeats. Counted: what a known key's requests are answered, what an unknown key's are, what /readyz says,
and how long after the line is mended all of it is well again.
"""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from bench.harness import Program, Studio, chat_worker, free_port, python, running, status, studio
from bench.traffic import MODEL
from core.db.embedded import embedded_postgres
from tests.endurance import harness
from tests.fakes.cable import Cable, cable

PAUSE, HEARTBEATS = 0.2, 8.0
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "one"}], "max_tokens": 4}


async def cut_off(folder: Path, seconds: int) -> dict[str, Any]:
    port, socket = free_port(), folder / "line"
    socket.mkdir()
    async with (
        embedded_postgres(folder / "postgres") as dsn,
        cable(dsn, socket) as line,
        running(Program("engine", python("bench.engine", port), folder, port=port)),
        studio(folder, chat_worker("stand-in", port, MODEL), DATABASE_URL=line.dsn, LOG_LEVEL="error") as whole,
        aiohttp.ClientSession() as session,
    ):
        return await _away(session, whole, line, seconds)


async def _away(session: aiohttp.ClientSession, whole: Studio, line: Cable, seconds: int) -> dict[str, Any]:
    unseen = await whole.new_key(session, "unseen")
    await asyncio.sleep(HEARTBEATS)  # the new key made all keys be looked up anew, the worker's too
    while await _chat(session, whole, whole.key) != 200:  # noqa: ASYNC110 - another process: it has no event to wait for
        await asyncio.sleep(PAUSE)
    line.cut()
    began, known, unknown = time.monotonic(), Counter[int](), Counter[int]()
    strangers = asyncio.create_task(_strangers(session, whole, unseen, unknown))
    while time.monotonic() - began < seconds:
        known[await _chat(session, whole, whole.key)] += 1
        await asyncio.sleep(PAUSE)
    strangers.cancel()
    ready = await status(whole.program.port, "/readyz")
    await line.mend()
    mended = time.monotonic()
    while await _chat(session, whole, unseen) != 200 or await status(whole.program.port, "/readyz") != 200:  # noqa: ASYNC110
        await asyncio.sleep(PAUSE)
    return {
        "known_key": dict(known),
        "unknown_key": dict(unknown),
        "readyz_while_away": ready,
        "well_again_after_seconds": round(time.monotonic() - mended, 1),
        "holds": {
            "known keys go on": set(known) == {200},
            "unknown ones are told": set(unknown) == {503},
            "readiness says no": ready == 503,
        },
    }


async def _strangers(session: aiohttp.ClientSession, whole: Studio, key: str, statuses: Counter[int]) -> None:
    while True:
        statuses[await _chat(session, whole, key)] += 1


async def _chat(session: aiohttp.ClientSession, whole: Studio, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    async with session.post(f"{whole.url}/v1/chat/completions", json=BODY, headers=headers) as answer:
        await answer.read()
        return answer.status


if __name__ == "__main__":
    harness.end("outage", __doc__ or "", cut_off, unit="seconds", default=60, limit_seconds=900)
