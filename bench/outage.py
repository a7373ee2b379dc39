"""The database is away for a minute: `python -m bench.outage [SECONDS]`.

A real orchestrator whose line to its Postgres is cut, with its own times (leases of 15 s), in front of a stand-in
engine that heartbeats. Counted: what a known key's requests are answered, what an unknown key's are, what /readyz says,
and how long after the line is mended all of it is well again.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from bench.relay.processes import free_port, python, running, without_settings
from bench.relay.traffic import MODEL
from bench.soak import registered, worker
from core.db.embedded import embedded_postgres
from core.keys import new_key
from tests.fakes.cable import Cable, cable

RESULT = Path(__file__).parent / "results" / "outage.json"
SECONDS, PAUSE, HEARTBEATS = 60.0, 0.2, 8.0
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "one"}], "max_tokens": 4}


async def measured(seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="soundstage-") as name:
        folder, key = Path(name), new_key()
        line, data = folder / "line", folder / "data"
        line.mkdir()
        engine, port = free_port(), free_port()
        env = {**without_settings(folder), "PORT": str(port), "DATA_DIR": str(data), "WAN_WORKER_API_KEY": key}
        url = f"http://127.0.0.1:{port}"
        async with embedded_postgres(folder / "postgres") as dsn, cable(dsn, line) as cut:
            env |= {"DATABASE_URL": cut.dsn, "LOG_LEVEL": "error"}
            async with (
                running("engine", python("bench.relay.engine", engine), engine, folder),
                running("orchestrator", python("orchestrator"), port, folder, env),
                registered(url, key, worker("stand-in", engine, MODEL)),
                aiohttp.ClientSession(base_url=url) as session,
            ):
                known = (data / "keys" / "local_api_key").read_text().strip()
                return await _away(session, cut, known, seconds)


async def _away(session: aiohttp.ClientSession, line: Cable, known: str, seconds: float) -> dict[str, Any]:
    admin = {"authorization": f"Bearer {known}"}
    async with session.post("/v1/keys", json={"name": "unseen", "scopes": ["chat"]}, headers=admin) as made:
        unseen = (await made.json())["secret"]
    await asyncio.sleep(HEARTBEATS)  # the new key made all keys be looked up anew, the worker's too
    while await _chat(session, known) != 200:  # noqa: ASYNC110 - another process: it has no event to wait for
        await asyncio.sleep(PAUSE)
    line.cut()
    began, seen, told = time.monotonic(), Counter[int](), Counter[int]()
    strangers = asyncio.create_task(_strangers(session, unseen, told))
    while time.monotonic() - began < seconds:
        seen[await _chat(session, known)] += 1
        await asyncio.sleep(PAUSE)
    strangers.cancel()
    async with session.get("/readyz") as answer:
        ready = answer.status
    await line.mend()
    mended = time.monotonic()
    while await _chat(session, unseen) != 200 or not await _ready(session):  # noqa: ASYNC110
        await asyncio.sleep(PAUSE)
    return {
        "seconds_away": seconds,
        "known_key": dict(seen),
        "unknown_key": dict(told),
        "readyz_while_away": ready,
        "well_again_after_seconds": round(time.monotonic() - mended, 1),
        "load_1m": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
    }


async def _strangers(session: aiohttp.ClientSession, key: str, told: Counter[int]) -> None:
    while True:
        told[await _chat(session, key)] += 1


async def _chat(session: aiohttp.ClientSession, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    async with session.post("/v1/chat/completions", json=BODY, headers=headers) as answer:
        await answer.read()
        return answer.status


async def _ready(session: aiohttp.ClientSession) -> bool:
    async with session.get("/readyz") as answer:
        return answer.status == 200


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    found = asyncio.run(measured(seconds))
    found["holds"] = {
        "known keys go on": set(found["known_key"]) == {200},
        "unknown ones are told": set(found["unknown_key"]) == {503},
        "readiness says no": found["readyz_while_away"] == 503,
    }
    text = json.dumps(found, indent=1)
    if seconds >= SECONDS:
        RESULT.write_text(text + "\n")
    print(text)
    return 0 if all(found["holds"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
