"""Time outside the engines: `python -m bench.pipelines.overhead [RUNS]`.

A 1:1 run of three steps, in the three ways, with engines that answer at once; at 1, 8 and 32 runs at once. For a stream
the first event's time, too. The same steps asked of the engines without a studio are taken off. Beside the wall's time
stands the orchestrator's own CPU time for a run, which says more on a machine that does other work; each is measured in
rounds, of which the quietest is shown. `engine_alone` is the durable engine without a gateway: waited runs of three
steps that sleep for 50 ms, and what it takes when nothing is asked, both by its own CPU time.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
from pydantic import BaseModel

from bench.harness import quantile, save
from bench.pipelines.studio import PATHS, Studio, studio
from core.db.embedded import embedded_postgres
from core.db.migrate import migrate
from core.db.pool import open_pool
from core.watchers import Watchers
from orchestrator.access.keys import Keys, create_key
from orchestrator.jobs.part import Jobs
from orchestrator.jobs.values import AT_ONCE, RunRequest
from orchestrator.operate.seal import Seal
from orchestrator.runs.caller import Caller
from orchestrator.settings import OrchestratorSettings

AT_A_TIME = (1, 8, 32)
ROUNDS = 5
WAYS = ("wait", "stream", "background")
PATH = PATHS["chat1to1"]
BODY = {"message": "a red apple on a table", "seed": 1, "partial_images": 0}
STEP_SECONDS, IDLE_SECONDS = 0.05, 10.0


async def main(runs: int) -> None:
    found: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg(), "runs_of_each": runs}
    found["engine_alone"] = await _alone(runs)
    print(found, flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with studio(Path(folder)) as running:
            found["idle_cpu_ms_a_second"] = await _idle(running)
            bare = await _bare(running)
            found["engines_alone_ms"] = round(bare * 1000, 1)
            for way in WAYS:
                await _measured(running, way, 1, 5, bare)  # warm
                for at_once in AT_A_TIME:
                    rounds = [await _measured(running, way, at_once, runs // ROUNDS, bare) for _ in range(ROUNDS)]
                    best = min(rounds, key=lambda one: one["p50_ms"])
                    found[f"{way}_at_{at_once}"] = {**best, "p50_ms_of_rounds": [one["p50_ms"] for one in rounds]}
                    print(way, at_once, found[f"{way}_at_{at_once}"], flush=True)
    found["load_after"] = os.getloadavg()
    save("pipelines-overhead", found)


# -- the durable engine alone -----------------------------------------------------------------------------------------


class _Body(BaseModel):
    """Nothing is asked."""


async def _three(studio: Any, flow: Any, request: Any, caller: Any) -> dict[str, str]:
    async def step(key: str) -> dict[str, str]:
        await asyncio.sleep(STEP_SECONDS)
        return {"key": key}

    for name in ("expand", "generate", "caption"):
        await flow.step(name, step)
    return {"done": "yes"}


@asynccontextmanager
async def _engine(folder: Path) -> AsyncIterator[tuple[Jobs, Caller]]:
    async with embedded_postgres(folder / "postgres") as dsn:
        await migrate(dsn)
        async with open_pool(dsn) as pool, Watchers() as watchers:
            secret = await create_key(pool, "bench", ["pipelines"])
            key = await Keys(pool).authenticate([(b"authorization", b"Bearer " + secret.encode())])
            three = SimpleNamespace(name="three", role=None, request=_Body, run=_three)
            parts: Any = SimpleNamespace(
                **{"dsn": dsn, "pool": pool, "seal": Seal(bytes(32)), "tracing": None},
                **{"studio": SimpleNamespace(blobs=None), "table": {"three": three}},
            )
            jobs = Jobs(OrchestratorSettings.load(data_dir=folder), parts, parts, parts)
            async with jobs:
                for name, work in jobs.watchers.items():
                    watchers.start(name, work())
                yield jobs, Caller(key, "req", PATH, None)
                await watchers.stop()


async def _alone(runs: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with _engine(Path(folder)) as (jobs, caller):
            before = time.process_time()
            await asyncio.sleep(IDLE_SECONDS)
            found["idle_cpu_ms_a_second"] = round((time.process_time() - before) / IDLE_SECONDS * 1000, 1)
            request = RunRequest("three", caller, {}, "0" * 64, "wait", AT_ONCE, 60.0)

            async def one() -> float:
                began = time.perf_counter()
                how = await jobs.executor.ended_here(await jobs.executor.begin(request, {}))
                assert (how and how.state) == "completed", how
                return (time.perf_counter() - began - 3 * STEP_SECONDS) * 1000

            for at_once in AT_A_TIME:
                best: dict[str, float] = {}
                for _ in range(ROUNDS):
                    before, each = time.process_time(), max(1, runs // at_once // ROUNDS)
                    took = [ms for _ in range(each) for ms in await asyncio.gather(*(one() for _ in range(at_once)))]
                    cpu = (time.process_time() - before) / len(took) * 1000
                    now = {"p50_ms": _ms(took, 0.5), "p95_ms": _ms(took, 0.95), "cpu_ms_a_run": round(cpu, 2)}
                    best = min(best or now, now, key=lambda one: one["p50_ms"])
                found[f"wait_at_{at_once}"] = best
    return found


# -- a studio ---------------------------------------------------------------------------------------------------------


async def _idle(studio: Studio) -> float:
    """Milliseconds of CPU that an orchestrator takes in a second in which nothing is asked; of all that it does."""
    before = studio.cpu_seconds()
    await asyncio.sleep(IDLE_SECONDS)
    return round((studio.cpu_seconds() - before) / IDLE_SECONDS * 1000, 1)


async def _bare(studio: Studio) -> float:
    """Seconds that the three requests take by themselves, at the median."""
    chat = (studio.engines["chat"].url + "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
    draw = (studio.engines["image-0"].url + "/v1/images/generations", {"prompt": "x", "seed": 1})

    async def three() -> float:
        began = time.perf_counter()
        for url, body in (chat, draw, chat):
            async with studio.http.post(url, json=body) as answer:
                await answer.read()
        return time.perf_counter() - began

    return statistics.median([await three() for _ in range(30)])


async def _measured(studio: Studio, way: str, at_once: int, runs: int, bare: float) -> dict[str, float]:
    left, took, first = list(range(max(runs, at_once * 4))), [], []
    before, many = studio.cpu_seconds(), len(left)

    async def client() -> None:
        while left:
            left.pop()
            seconds, event = await _one(studio, way)
            took.append((seconds - bare) * 1000)
            first.append(event * 1000)

    await asyncio.gather(*(client() for _ in range(at_once)))
    cpu = (studio.cpu_seconds() - before) / many * 1000
    found = {"p50_ms": _ms(took, 0.5), "p95_ms": _ms(took, 0.95), "orchestrator_cpu_ms": round(cpu, 1)}
    return found | ({"first_event_p50_ms": _ms(first, 0.5)} if way == "stream" else {})


async def _one(studio: Studio, way: str) -> tuple[float, float]:
    """Seconds to the end, and to the first event."""
    body, url = BODY | ({} if way == "wait" else {way: True}), studio.orchestrators[0].url
    began, first = time.perf_counter(), 0.0
    async with studio.http.post(url + PATH, json=body, headers=studio.headers) as answer:
        job = answer.headers["x-job-id"]
        assert answer.status in (200, 202), await answer.text()
        if way == "stream":
            first = await _followed(answer, began)
        else:
            await answer.read()
    if way == "background":
        events = {**studio.headers, "accept": "text/event-stream"}
        async with studio.http.get(f"{url}/v1/jobs/{job}/events", headers=events) as answer:
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


def _ms(values: list[float], share: float) -> float:
    return round(quantile(values, share), 1)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
