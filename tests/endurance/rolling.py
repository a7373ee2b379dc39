"""A rolling upgrade of everything under load: `python -m tests.endurance.rolling [SECONDS]`.

Two pods (pods.py) answer chat, streams, pictures and background jobs (callers.py). A chat and an image worker move to
another address; then every process is stopped by SIGTERM and started anew, one after the other, with SECONDS of load
before and after each. Every request is to be answered whole, every stream that had begun to end, every job to run once
and to make each call of an engine once.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from bench.harness import Program, free_port
from core.db.embedded import embedded_postgres
from tests.endurance import harness
from tests.endurance.callers import Callers, Tally
from tests.endurance.pods import STOP_DELAY_SECONDS, STOP_SECONDS, Pods, running_pods

JOBS = "select id, state, attempts from jobs"


@dataclass
class Restart:
    """Of one process; `running` had begun when it was told to stop. Seconds."""

    what: str
    running: dict[str, int]
    stopped_after: float
    ready_after: float
    routed_after: float | None = None


@dataclass
class Upgrade:
    """What was done, and what callers, the database and the workers' logs say of it."""

    tally: Tally = field(default_factory=Tally)
    moved: list[Restart] = field(default_factory=list)
    restarted: list[Restart] = field(default_factory=list)
    programs: int = 0
    processes: int = 0
    jobs: list[tuple[str, str, int]] = field(default_factory=list)
    pictures: Counter[str] = field(default_factory=Counter)  # by the request that they were for
    answers: Counter[str] = field(default_factory=Counter)  # of chat workers, the same


async def rolled(folder: Path, seconds: int) -> dict[str, Any]:
    fresh = aiohttp.TCPConnector(force_close=True, limit=0)
    async with (
        embedded_postgres(folder / "postgres") as dsn,
        aiohttp.ClientSession(connector=fresh, timeout=aiohttp.ClientTimeout(total=180)) as http,
        running_pods(folder, dsn, http) as pods,
    ):
        callers = Callers(http, pods)
        found = Upgrade(callers.tally)
        asking = asyncio.create_task(callers.run())
        await asyncio.sleep(seconds)
        for worker in pods.workers[2:]:
            found.moved.append(await _again(pods, worker, callers.tally, http, seconds, port=free_port()))
        for program in (*pods.of("llm"), *pods.of("image"), *pods.orchestrators):  # as docs/upgrade.md says
            found.restarted.append(await _again(pods, program, callers.tally, http, seconds))
        callers.stop()
        await asking
        found.programs, found.processes = len(pods.all), len(pods.pids)
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            found.jobs = await (await connection.execute(JOBS)).fetchall()
    found.pictures = _logged(pods.of("image"), "/v1/images/generations")
    found.answers = _logged(pods.of("llm"), "/v1/chat/completions")
    return result(found)


async def _again(
    pods: Pods, program: Program, tally: Tally, http: aiohttp.ClientSession, seconds: int, port: int | None = None
) -> Restart:
    """Stop it, start it anew, at another port where one is given, and wait until it has its share again."""
    running = {kind: count for kind, count in tally.running.items() if count}
    print(f"… {program.name}{' moves' if port else ''}", flush=True)
    began = time.monotonic()
    await program.stop()
    stopped = time.monotonic() - began
    program.port = port or program.port
    ready = await pods.start(program)
    done = Restart(program.name, running, round(stopped, 1), round(ready, 1))
    if program not in pods.orchestrators:
        began = time.monotonic()
        await pods.routed(http, program)
        done.routed_after = round(time.monotonic() - began, 2)
    await asyncio.sleep(seconds)
    return done


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
    tally, ids = found.tally, {job: name for name, job in found.tally.jobs.items()}
    calls = Counter(f"{found.pictures[name]} pictures, {found.answers[name]} answers" for name in ids.values())
    attempts = Counter(f"{state}, begun {attempts}x" for _, state, attempts in found.jobs)
    return {
        **{"stop_seconds": STOP_SECONDS, "stop_delay_seconds": STOP_DELAY_SECONDS},
        "asked": dict(tally.asked),
        "answered_whole": dict(tally.answered),
        "asked_of_the_other_orchestrator": dict(tally.elsewhere),
        "lost": tally.lost,
        "jobs": dict(attempts),
        "engine_calls_of_a_job": dict(calls),
        "moved": [vars(one) for one in found.moved],
        "restarted": [vars(one) for one in found.restarted],
        "holds": {
            "no request was lost": not tally.lost and tally.asked == tally.answered,
            "something of each kind was asked": set(tally.asked) == {"chat", "stream", "image", "job"},
            "streams were running at every restart": all(one.running.get("stream") for one in found.restarted),
            "every process is another": found.processes == 2 * found.programs + len(found.moved),
            "every job ended once, begun once": set(attempts) == {"completed, begun 1x"},
            "every job is one of the callers'": {job for job, _, _ in found.jobs} == set(ids),
            "every job called its engines as often": len(calls) == 1
            and all(found.pictures[n] == 1 for n in ids.values()),
        },
    }


if __name__ == "__main__":
    harness.end("rolling", __doc__ or "", rolled, unit="seconds_of_load", default=8, limit_seconds=3600)
