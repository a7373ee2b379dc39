"""Runs cancelled at random moments: `python -m bench.pipelines.cancel [RUNS]`.

Runs of all six pipelines, each ended at a moment drawn over its length: by `POST /v1/jobs/ID/cancel` where it is
carried out, at the other orchestrator, or while it may be queued; or by a client who leaves. Checked: the job says
cancelled (or had completed before), nothing was told after that, nothing of a result is there, no engine goes on.
Measured: from the cancelling to the last that an engine did for the run, in milliseconds and in the engines' ticks,
which stand for tokens and denoising steps.
"""

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path

from bench.harness import quantile, save
from bench.pipelines.client import ENDS, Client, Job
from bench.pipelines.studio import PATHS, STEPS, Studio, studio

HOW = {  # and the way to call that it goes with; who streams or waits is served where the request came in
    "cancelled where it runs": "stream",
    "cancelled at the other orchestrator": "stream",
    "cancelled in the queue or after it": "background",
    "who waits leaves": "wait",
    "who follows leaves": "stream",
}
LONGEST_IDLE_SECONDS, TICK_SECONDS = 20.0, 0.05
QUEUE_SECONDS = 1.0  # that a job may have to wait


async def main(runs: int) -> None:
    rng, outcomes, wrong = random.Random(9), Counter[str](), Counter[str]()
    idle: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with studio(
            Path(folder), orchestrators=2, images=2, tick=TICK_SECONDS, STREAM_GRACE_SECONDS="0"
        ) as running:
            lengths = {name: await _length(running, name, number, rng) for number, name in enumerate(STEPS)}
            for number in range(runs):
                name, how = rng.choice(list(STEPS)), list(HOW)[number % len(HOW)]
                one = _CancelledRun(running, Job(name, HOW[how], 1000 + number), rng)
                queued = QUEUE_SECONDS if HOW[how] == "background" else 0.0
                state, seconds = await one.end(how, rng.uniform(0.0, queued + lengths[name] * 1.05))
                outcomes[f"{how}: {state}"] += 1
                wrong.update(f"{how}: {problem}" for problem in one.wrong)
                if state == "cancelled":
                    idle[how].append(seconds)
    result = {"load": os.getloadavg(), "runs": runs, "outcomes": outcomes, "wrong": wrong}
    result["run_seconds"] = {name: round(length, 2) for name, length in lengths.items()}
    result["idle_after"] = {how: _figures(of) for how, of in idle.items()}
    save("pipelines-cancel", result)
    print(json.dumps(result, indent=1))
    sys.exit(f"wrong: {dict(wrong)}" if wrong else 0)


def _figures(seconds: list[float]) -> dict[str, float]:
    """From the moment of cancelling to the last that an engine did."""
    figures = {"p50_ms": quantile(seconds, 0.5) * 1000, "worst_ms": max(seconds) * 1000}
    figures["worst_in_ticks"] = max(seconds) / TICK_SECONDS
    return {"runs": len(seconds), **{name: round(value, 1) for name, value in figures.items()}}


async def _length(studio: Studio, name: str, number: int, rng: random.Random) -> float:
    """Seconds of a run that is left alone; the second is measured."""
    for at in (0, 1):
        began = time.perf_counter()
        await Client(studio, Job(name, "wait", 100 * at + number), rng).run()
    return time.perf_counter() - began


class _CancelledRun:
    """One run that is ended before its time."""

    def __init__(self, studio: Studio, job: Job, rng: random.Random) -> None:
        self.wrong: list[str] = []
        self._studio, self._job = studio, job
        self._here, self._there = rng.sample(studio.orchestrators, 2)
        self._answering = asyncio.Event()

    async def end(self, how: str, after: float) -> tuple[str, float]:
        """How the job ended, and the seconds until the engines were idle."""
        before = await self._newest()
        asking = asyncio.create_task(self._ask())
        await asyncio.sleep(after)
        if "leaves" in how:
            at = time.time()
            asking.cancel()
        else:
            await self._answering.wait()
            url = (self._there if "other" in how else self._here).url
            at = time.time()
            cancel = f"{url}/v1/jobs/{self._job.id}/cancel"
            (await self._studio.http.post(cancel, headers=self._studio.headers)).raise_for_status()
        await asyncio.gather(asking, return_exceptions=True)
        self._job.id = self._job.id or await self._newest()
        if self._job.id == before:
            return "not begun", 0.0
        state = await self._checked()
        until = time.monotonic() + LONGEST_IDLE_SECONDS
        while await self._studio.running():
            if time.monotonic() > until:
                self.wrong.append("the engines go on")
                break
        calls = self._studio.calls().items()
        times = [then for key, of in calls if key.startswith(self._job.id) for then in chain(*of.values())]
        return state, max(0.0, *(then - at for then in times), 0.0)

    async def _ask(self) -> None:
        """Ask, and stay until cancelled."""
        sending = Client(self._studio, self._job, random.Random(0)).sending()
        url = self._here.url + PATHS[self._job.pipeline]
        async with self._studio.http.post(url, headers=self._studio.headers, **sending) as answer:
            self._job.id = answer.headers.get("x-job-id", "")
            self._answering.set()
            await answer.read()

    async def _newest(self) -> str:
        found = (await self._studio.get(f"{self._here.url}/v1/jobs?limit=1"))["data"]
        return str(found[0]["id"]) if found else ""

    async def _checked(self) -> str:
        """The job's state, once it has one that lasts. Raises TimeoutError where it gets none."""
        url = f"{self._there.url}/v1/jobs/{self._job.id}"
        async with asyncio.timeout(LONGEST_IDLE_SECONDS):
            while (job := await self._studio.get(url))["ended_at"] is None:
                pass
        told = [event["type"] for event in (await self._studio.get(f"{url}/events"))["data"]]
        if sum(told.count(end) for end in ENDS) != 1 or told[-1] not in ENDS:
            self.wrong.append("events after the end, or none of it")
        if job["state"] not in ("cancelled", "completed"):
            self.wrong.append(f"the job says {job['state']}")
        if job["state"] == "cancelled" and (job["result"] is not None or told[-1] != "error"):
            self.wrong.append("half a result")
        return str(job["state"])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
