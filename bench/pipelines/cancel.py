"""Runs cancelled at random moments: `python -m bench.pipelines.cancel [RUNS]`.

Runs of all six pipelines are begun one after the other and each is ended at a moment drawn over its length: by
`POST /v1/jobs/ID/cancel` at the orchestrator that carries it out, at the other one, or while it may still be queued;
or by a client who leaves, of a request that waits or of a stream. Checked for each: the job says cancelled (or it had
completed before), nothing was told after that, and nothing of a result is there; no engine goes on with it. Measured:
from the cancelling to the last that an engine did for the run, in milliseconds and in the engines' ticks, which stand
for tokens and denoising steps.
"""

import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg

from bench.pipelines.mortal import TICK_SECONDS
from bench.pipelines.studio import headers
from bench.pipelines.trial import PATHS, STEPS, Client, Job, Trial, load, trial

HOW = {  # and the way to call that it goes with; who streams or waits is served where the request came in
    "cancelled where it runs": "stream",
    "cancelled at the other orchestrator": "stream",
    "cancelled in the queue or after it": "background",
    "who waits leaves": "wait",
    "who follows leaves": "stream",
}
LONGEST_IDLE_SECONDS = 20.0
QUEUE_SECONDS = 1.0  # an idle queue is looked at this often
FILE = Path(__file__).parent.parent / "results" / "pipelines-cancel.json"


async def main(runs: int) -> None:
    rng, idle, outcomes, wrong = random.Random(9), defaultdict(list), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with trial(Path(folder), STREAM_GRACE_SECONDS="0") as running:
            lengths = {name: await _length(running, name, number, rng) for number, name in enumerate(STEPS)}
            for number in range(runs):
                name, how = rng.choice(list(STEPS)), list(HOW)[number % len(HOW)]
                one = _Cancelled(running, Job(name, "wait", 1000 + number), rng)
                queued = QUEUE_SECONDS if HOW[how] == "background" else 0.0
                state, seconds = await one.ended(how, rng.uniform(0.0, queued + lengths[name] * 1.05))
                outcomes[f"{how}: {state}"] += 1
                wrong.update(f"{how}: {problem}" for problem in one.wrong)
                if state == "cancelled":
                    idle[how].append(seconds)
            ticks = {how: _figures(of) for how, of in idle.items()}
            result = {
                "load": load(),
                "runs": runs,
                "outcomes": dict(outcomes),
                "wrong": dict(wrong),
                "idle_after": ticks,
            }
            result["run_seconds"] = {name: round(length, 2) for name, length in lengths.items()}
            result |= await _half_written(running)
    FILE.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    sys.exit(f"wrong: {dict(wrong)}" if wrong or result["answers_of_cancelled_jobs"] else 0)


def _figures(seconds: list[float]) -> dict[str, float]:
    """From the moment of cancelling until no engine works; a tick is 50 ms."""
    worst = max(seconds)
    return {
        **{"runs": len(seconds), "p50_ms": round(statistics.median(seconds) * 1000, 1)},
        **{"worst_ms": round(worst * 1000, 1), "worst_in_ticks": round(worst / TICK_SECONDS, 1)},
    }


async def _length(trial: Trial, name: str, number: int, rng: random.Random) -> float:
    """Seconds of a run that is left alone; the second is measured."""
    for at in (0, 1):
        job = Job(name, "wait", 100 * at + number)
        began = time.perf_counter()
        await Client(trial, job, rng).run()
    return time.perf_counter() - began


class _Cancelled:
    """One run that is ended before its time."""

    def __init__(self, trial: Trial, job: Job, rng: random.Random) -> None:
        self.wrong: list[str] = []
        self._trial, self._job = trial, job
        self._here, self._there = rng.sample(trial.orchestrators, 2)
        self._sent = headers(trial.key)
        self._answering = asyncio.Event()

    async def ended(self, how: str, after: float) -> tuple[str, float]:
        """How the job ended, and the seconds until the engines were idle."""
        self._job.way = HOW[how]
        sending = Client(self._trial, self._job, random.Random(0)).sending()
        before = await self._newest()
        asking = asyncio.create_task(self._asked(sending))
        await asyncio.sleep(after)
        if "leaves" not in how:
            await self._answering.wait()
            one = self._there if "other" in how else self._here
            at = time.time()
            async with self._trial.http.post(f"{one.url}/v1/jobs/{self._job.id}/cancel", headers=self._sent) as answer:
                assert answer.status == 200, await answer.text()
        else:
            at = time.time()
            asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        self._job.id = self._job.id or await self._newest()
        if self._job.id == before:
            return "not begun", 0.0
        state = await self._checked()
        until = time.monotonic() + LONGEST_IDLE_SECONDS
        while await self._trial.running():
            if time.monotonic() > until:
                self.wrong.append("the engines go on")
                break
        calls = self._trial.calls().items()
        times = [then for key, of in calls if key.startswith(self._job.id) for then in chain(*of.values())]
        return state, max(0.0, *(then - at for then in times), 0.0)

    async def _asked(self, sending: dict[str, Any]) -> None:
        """Ask, and stay until cancelled."""
        url = self._here.url + PATHS[self._job.pipeline]
        async with self._trial.http.post(url, headers=self._sent, **sending) as answer:
            self._job.id = answer.headers.get("x-job-id", "")
            self._answering.set()
            await answer.read()

    async def _newest(self) -> str:
        async with self._trial.http.get(f"{self._here.url}/v1/jobs?limit=1", headers=self._sent) as answer:
            found = (await answer.json())["data"]
            return str(found[0]["id"]) if found else ""

    async def _checked(self) -> str:
        """The job's state, once it has one that lasts."""
        url = f"{self._there.url}/v1/jobs/{self._job.id}"
        job: dict[str, Any] = {"ended_at": None}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_IDLE_SECONDS):
                while job["ended_at"] is None:
                    async with self._trial.http.get(url, headers=self._sent) as answer:
                        job = await answer.json()
        async with self._trial.http.get(f"{url}/events", headers=self._sent) as answer:
            told = [event["type"] for event in (await answer.json())["data"]]
        if told.count("error") + told.count("pipeline.completed") != 1 or told[-1] not in (
            "error",
            "pipeline.completed",
        ):
            self.wrong.append("events after the end, or none of it")
        if job.get("state") not in ("cancelled", "completed"):
            self.wrong.append(f"the job says {job.get('state')}")
        if job.get("state") == "cancelled" and (job["result"] is not None or told[-1] != "error"):
            self.wrong.append("half a result")
        return str(job.get("state"))


async def _half_written(trial: Trial) -> dict[str, Any]:
    """What is left of runs that were cancelled."""
    query = "select count(*) from jobs where state = 'cancelled' and answer is not null"
    workflows = (
        "select w.status, count(*) from jobs j join dbos.workflow_status w on w.workflow_uuid = j.id"
        " where j.state = 'cancelled' group by 1"
    )
    async with await psycopg.AsyncConnection.connect(trial.database.dsn) as connection:
        row = await (await connection.execute(query)).fetchone()
        found = await (await connection.execute(workflows)).fetchall()
    pictures = [path for path in (trial.folder / "blobs").rglob("*") if path.is_file()]
    whole = [path for path in pictures if path.suffix == ".png" and path.stat().st_size]
    return {
        "answers_of_cancelled_jobs": row[0] if row else None,
        "their_workflows": {str(status): count for status, count in found},
        "pictures_kept": len(whole),
        "files_that_are_no_picture": len(pictures) - len(whole),
    }


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
