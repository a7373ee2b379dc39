"""A rolling upgrade of everything under load: `python -m bench.rolling`.

Two pods (bench/rolling/pods.py) answer chat, streams, pictures and background jobs (bench/rolling/load.py). A chat and
an image worker move to another address; then every process is stopped by SIGTERM and started anew, one after the other.
Asserted: every request was answered whole, every stream that had begun ended, every job ran once and made each call of
an engine once. Ends with 1 where that does not hold.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from bench.relay.processes import free_port
from bench.rolling.load import Callers, Seen
from bench.rolling.pods import STOP_DELAY_SECONDS, STOP_SECONDS, Pods, Program, two_pods
from core.db.embedded import embedded_postgres

RESULT = Path(__file__).parent.parent / "results" / "rolling.json"
QUIET_SECONDS = 8.0  # of load before anything is touched, and between two touches
DRAWN = "/v1/images/generations"
JOBS = "select id, state, attempts from jobs"


@dataclass
class Touched:
    """A process that was stopped and started anew; `running` had begun when it was told to stop."""

    what: str
    running: dict[str, int]
    stopped_after: float
    ready_after: float
    routed_after: float | None = None


@dataclass
class Upgrade:
    """What was done, and what callers, the database and the workers' logs say of it."""

    seen: Seen = field(default_factory=Seen)
    moved: list[Touched] = field(default_factory=list)
    restarted: list[Touched] = field(default_factory=list)
    programs: int = 0
    processes: int = 0
    jobs: list[tuple[str, str, int]] = field(default_factory=list)
    drawn: Counter[str] = field(default_factory=Counter)  # pictures by the request that they were for
    said: Counter[str] = field(default_factory=Counter)  # answers of chat workers, the same
    load_1m: list[float] = field(default_factory=list)


async def upgraded(folder: Path) -> Upgrade:
    found = Upgrade()
    async with embedded_postgres(folder / "postgres") as dsn:
        fresh = aiohttp.TCPConnector(force_close=True, limit=0)
        async with (
            aiohttp.ClientSession(connector=fresh, timeout=aiohttp.ClientTimeout(total=180)) as http,
            two_pods(folder, dsn, http) as pods,
        ):
            callers = Callers(http, pods)
            found.seen = callers.seen
            asking = asyncio.create_task(callers.run())
            await asyncio.sleep(QUIET_SECONDS)
            for worker in (pods.chats[1], pods.images[1]):
                found.moved.append(await _again(pods, worker, callers.seen, http, port=free_port()))
                found.load_1m.append(round(os.getloadavg()[0], 1))
            for program in _in_order(pods):
                found.restarted.append(await _again(pods, program, callers.seen, http))
                found.load_1m.append(round(os.getloadavg()[0], 1))
            await asyncio.sleep(QUIET_SECONDS)
            callers.stop()
            await asking
            found.programs, found.processes = len(pods.all), len({pid for one in pods.all for pid in one.pids})
            async with await psycopg.AsyncConnection.connect(dsn) as connection:
                found.jobs = await (await connection.execute(JOBS)).fetchall()
    found.drawn, found.said = _logged(pods.images, DRAWN), _logged(pods.chats, "/v1/chat/completions")
    return found


def _in_order(pods: Pods) -> Iterable[Program]:
    """As docs/upgrade.md says: workers first, then orchestrators, pod by pod."""
    return [program for kind in (pods.chats, pods.images, pods.orchestrators) for program in kind]


async def _again(
    pods: Pods, program: Program, seen: Seen, http: aiohttp.ClientSession, port: int | None = None
) -> Touched:
    """Stop it, start it anew, at another port where one is given, and wait until it has its share again."""
    running = {kind: count for kind, count in seen.running.items() if count}
    print(f"… {program.name}{' moves' if port else ''}", flush=True)
    stopped = await program.stop()
    program.port = port or program.port
    ready = await program.start(http)
    touched = Touched(program.name, running, round(stopped, 1), round(ready, 1))
    if program not in pods.orchestrators:
        began = time.monotonic()
        await pods.routed(http, program)
        touched.routed_after = round(time.monotonic() - began, 2)
    await asyncio.sleep(QUIET_SECONDS)
    return touched


def _logged(workers: Iterable[Program], path: str) -> Counter[str]:
    """How often workers answered each request with 200, by their access logs."""
    found = Counter[str]()
    for text in (line for worker in workers for line in worker.log.read_text("utf-8").splitlines()):
        if '"path"' in text:
            line = json.loads(text)
            if (line["path"], line["status"]) == (path, 200):
                found[line["request_id"]] += 1
    return found


def result(found: Upgrade) -> dict[str, Any]:
    """What is kept, with what holds of it."""
    seen, ids = found.seen, {job: name for name, job in found.seen.jobs.items()}
    calls = Counter(f"{found.drawn[name]} pictures, {found.said[name]} answers" for name in ids.values())
    attempts = Counter(f"{state}, begun {attempts}x" for _, state, attempts in found.jobs)
    return {
        **{"cores": os.cpu_count(), "load_1m": found.load_1m},
        **{"stop_seconds": STOP_SECONDS, "stop_delay_seconds": STOP_DELAY_SECONDS},
        "asked": dict(seen.asked),
        "answered_whole": dict(seen.answered),
        "asked_of_the_other_orchestrator": dict(seen.elsewhere),
        "lost": seen.lost,
        "jobs": dict(attempts),
        "engine_calls_of_a_job": dict(calls),
        "moved": [vars(one) for one in found.moved],
        "restarted": [vars(one) for one in found.restarted],
        "holds": {
            "no request was lost": not seen.lost and seen.asked == seen.answered,
            "something of each kind was asked": set(seen.asked) == {"chat", "stream", "image", "job"},
            "streams were running at every restart": all(one.running.get("stream") for one in found.restarted),
            "every process is another": found.processes == 2 * found.programs + len(found.moved),
            "every job ended once, begun once": set(attempts) == {"completed, begun 1x"},
            "every job is one of the callers'": {job for job, _, _ in found.jobs} == set(ids),
            "every job called its engines as often": len(calls) == 1 and all(found.drawn[n] == 1 for n in ids.values()),
        },
    }


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="soundstage-") as folder:
        kept = result(asyncio.run(upgraded(Path(folder))))
    text = json.dumps(kept, indent=1)
    RESULT.write_text(text + "\n")
    print(text)
    return 0 if all(kept["holds"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
