"""Time outside the engines: `python -m bench.pipelines.overhead [RUNS]`.

A 1:1 run of three steps, in the three ways, with engines that answer at once; at 1, 8 and 32 runs at once. For a stream
the first event's time, too. The same steps asked of the engines without a studio are taken off. Beside the wall's time
stands the orchestrator's own CPU time for a run, which says more on a machine that does other work. On a shared host a
core may be half as fast from one moment to the next, so each is measured in rounds: the quietest is shown, with the p50
of all and the milliseconds that an empty loop took before each. What three empty steps on the durable engine (DBOS)
take, on the same database in the same run, is what runs would pay if they were such.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped,unused-ignore]
from dbos import DBOS, DBOSPortableJSONSerializer

from bench.pipelines.studio import ASKED, PATH, Bench, headers, studio
from orchestrator.jobs.runs import sqlalchemy_url

AT_ONCE = (1, 8, 32)
ROUNDS = 5
WAYS = ("wait", "stream", "background")
FILE = Path(__file__).parent.parent / "results" / "pipelines-overhead.json"


async def main(runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with studio(Path(folder), images=1) as bench, aiohttp.ClientSession() as http:
            bare = await _bare(bench, http)
            found: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg(), "runs_of_each": runs}
            found["engines_alone_ms"] = round(bare * 1000, 1)
            found["three_steps_of_dbos"] = await _dbos(bench.dsn)
            print(found, flush=True)
            for way in WAYS:
                await _measured(bench, http, way, 1, 5, bare)  # warm
                for at_once in AT_ONCE:
                    found[f"{way}_at_{at_once}"] = await _in_rounds(bench, http, way, at_once, runs, bare)
                    print(way, at_once, found[f"{way}_at_{at_once}"], flush=True)
            found["load_after"] = os.getloadavg()
    FILE.write_text(json.dumps(found, indent=2) + "\n")


async def _bare(bench: Bench, http: aiohttp.ClientSession) -> float:
    """Seconds that the three requests take by themselves, at the median."""
    chat = {"model": "small", "messages": [{"role": "user", "content": "x"}]}

    async def three() -> float:
        began = time.perf_counter()
        for path, body in (
            ("/v1/chat/completions", chat),
            ("/0/v1/images/generations", ASKED),
            ("/v1/chat/completions", chat),
        ):
            async with http.post(bench.engines + path, json=body) as answer:
                await answer.read()
        return time.perf_counter() - began

    return statistics.median([await three() for _ in range(30)])


async def _dbos(dsn: str, rounds: int = 40) -> dict[str, float]:
    """A workflow of three steps that do nothing, one at a time, in this process."""
    url = sqlalchemy_url(dsn)
    await asyncio.to_thread(DBOS.migrate, url, schema="bench")
    DBOS(
        config={
            **{"name": "bench", "system_database_url": url, "dbos_system_schema": "bench", "run_migrations": False},
            **{"executor_id": "bench", "application_version": "1", "serializer": DBOSPortableJSONSerializer()},
            **{"log_level": "ERROR", "enable_otlp": False},
        }
    )

    async def nothing(name: str) -> dict[str, str]:
        return {"step": name}

    @DBOS.workflow(name="three")
    async def three() -> None:
        for name in ("expand", "generate", "caption"):
            await DBOS.run_step_async({"name": name}, nothing, name)

    async def one() -> float:
        began = time.perf_counter()
        await three()
        return (time.perf_counter() - began) * 1000

    DBOS.launch()
    try:
        for _ in range(5):
            await one()
        before = time.process_time()
        took = [await one() for _ in range(rounds)]
        cpu = (time.process_time() - before) / rounds * 1000
    finally:
        await asyncio.to_thread(DBOS.destroy)
    return {"p50_ms": _at(took, 0.5), "p95_ms": _at(took, 0.95), "cpu_ms": round(cpu, 1)}


async def _in_rounds(
    bench: Bench, http: aiohttp.ClientSession, way: str, at_once: int, runs: int, bare: float
) -> dict[str, Any]:
    """The quietest of the rounds, and what the others were like."""
    rounds, loops = [], []
    for _ in range(ROUNDS):
        loops.append(_empty_loop_ms())
        rounds.append(await _measured(bench, http, way, at_once, max(1, runs // ROUNDS), bare))
    best = min(rounds, key=lambda one: one["p50_ms"])
    return {**best, "p50_ms_of_rounds": [one["p50_ms"] for one in rounds], "empty_loop_ms": loops}


def _empty_loop_ms() -> float:
    began = time.perf_counter()
    for _ in range(1_000_000):
        pass
    return round((time.perf_counter() - began) * 1000, 1)


async def _measured(
    bench: Bench, http: aiohttp.ClientSession, way: str, at_once: int, runs: int, bare: float
) -> dict[str, float]:
    one = bench.orchestrators[0]
    assert one.process is not None
    left, took, first = list(range(max(runs, at_once * 4))), [], []
    began, many = _cpu_seconds(one.process.pid), len(left)

    async def client() -> None:
        while left:
            left.pop()
            seconds, event = await _one(http, one.url, one.key, way)
            took.append((seconds - bare) * 1000)
            first.append(event * 1000)

    await asyncio.gather(*(client() for _ in range(at_once)))
    cpu = (_cpu_seconds(one.process.pid) - began) / many * 1000
    found = {"p50_ms": _at(took, 0.5), "p95_ms": _at(took, 0.95), "orchestrator_cpu_ms": round(cpu, 1)}
    return found | ({"first_event_p50_ms": _at(first, 0.5)} if way == "stream" else {})


async def _one(http: aiohttp.ClientSession, url: str, key: str, way: str) -> tuple[float, float]:
    """Seconds to the end, and to the first event."""
    body = ASKED | ({} if way == "wait" else {way: True})
    began, first = time.perf_counter(), 0.0
    async with http.post(url + PATH, json=body, headers=headers(key)) as answer:
        job = answer.headers["x-job-id"]
        assert answer.status in (200, 202), await answer.text()
        if way != "stream":
            await answer.read()
        else:
            first = await _followed(answer, began)
    if way == "background":
        events = {**headers(key), "accept": "text/event-stream"}
        async with http.get(f"{url}/v1/jobs/{job}/events", headers=events) as answer:
            await _followed(answer, began)
    return time.perf_counter() - began, first


async def _followed(answer: aiohttp.ClientResponse, began: float) -> float:
    first, last = 0.0, b""
    async for line in answer.content:
        if line.startswith(b"event: "):
            first = first or time.perf_counter() - began
            last = line
    assert last == b"event: pipeline.completed\n", last
    return first


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _at(values: list[float], share: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(len(values) * share))], 1)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
