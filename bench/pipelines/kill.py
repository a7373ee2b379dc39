"""kill -9 of an orchestrator at random moments of a run: `python -m bench.pipelines.kill [POINTS]`.

Each run is killed once, at a moment drawn over the whole length of a run, and taken up by the same orchestrator started
again. Checked for each: it ends exactly once, completed; its events are numbered without a gap and each step is told
once, as seen by a client that resumes; no engine call that had finished before the kill is made again by a step that
was kept. Printed: how often a step was done again, and how long it took to be taken up.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from bench.pipelines.studio import ASKED, PATH, Bench, Orchestrator, headers, studio

ENGINE_SECONDS = 0.3
STEPS = ("expand", "generate", "caption")
FILE = Path(__file__).parent.parent / "results" / "pipelines-kill.json"


async def main(points: int) -> None:
    rng, found = random.Random(9), Counter[str]()
    taken_up: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with studio(Path(folder), images=1, seconds=ENGINE_SECONDS) as bench, aiohttp.ClientSession() as http:
            length = await _length(bench.orchestrators[0], http)
            for _ in range(points):
                seconds = await _killed(bench, http, rng.uniform(0.0, length), found)
                taken_up.append(seconds)
                print(dict(found), round(seconds, 2), flush=True)
                _kept(found, taken_up, length)
    wrong = set(found) - {"right", "step done again", "killed before its end"}
    sys.exit(f"wrong: {sorted(wrong)}" if wrong else 0)


def _kept(found: Counter[str], taken_up: list[float], length: float) -> None:
    """The result so far: a long bench that is stopped has one, too."""
    result = {
        **{"points": len(taken_up), "run_seconds": round(length, 2), "outcomes": dict(found), "load": os.getloadavg()},
        "start_and_end_after_kill_seconds_p50": round(statistics.median(taken_up), 2),
    }
    FILE.write_text(json.dumps(result, indent=2) + "\n")


async def _length(one: Orchestrator, http: aiohttp.ClientSession) -> float:
    began = time.perf_counter()
    job = await _begun(one, http)
    await _followed(one, http, job, 0)
    return time.perf_counter() - began


async def _begun(one: Orchestrator, http: aiohttp.ClientSession) -> str:
    async with http.post(one.url + PATH, json={**ASKED, "background": True}, headers=headers(one.key)) as answer:
        assert answer.status == 202, await answer.text()
        return str(answer.headers["x-job-id"])


async def _followed(one: Orchestrator, http: aiohttp.ClientSession, job: str, after: int) -> list[dict[str, Any]]:
    """The events after that number, as many as come before the connection breaks."""
    found: list[dict[str, Any]] = []
    sent = {**headers(one.key), "accept": "text/event-stream", "last-event-id": str(after)}
    with contextlib.suppress(aiohttp.ClientError):
        async with http.get(f"{one.url}/v1/jobs/{job}/events", headers=sent) as answer:
            async for line in answer.content:
                if line.startswith(b"data: "):
                    found.append(json.loads(line[6:]))
    return found


async def _killed(bench: Bench, http: aiohttp.ClientSession, after: float, found: Counter[str]) -> float:
    """Seconds from the kill to the run's end, the orchestrator's new start with it."""
    one = bench.orchestrators[0]
    job = await _begun(one, http)
    following = asyncio.ensure_future(_followed(one, http, job, 0))
    await asyncio.sleep(after)
    await one.end(signal.SIGKILL)
    killed = time.perf_counter()
    seen = await following
    kept = {event["step"] for event in seen if event["type"] == "pipeline.step.completed"}
    before = (await bench.counts(http))["begun"]
    await one.start()
    async with asyncio.timeout(300):
        while not seen or seen[-1]["type"] not in ("pipeline.completed", "error"):
            seen += await _followed(one, http, job, len(seen))
            await asyncio.sleep(0.05)
    took = time.perf_counter() - killed
    after_it = (await bench.counts(http))["begun"]
    found.update(_judged(job, seen, kept, before, after_it))
    return took


def _judged(
    job: str, seen: list[dict[str, Any]], kept: set[str], before: dict[str, int], after: dict[str, int]
) -> list[str]:
    """What is true of one run."""
    wrong = []
    if [event["sequence_number"] for event in seen] != list(range(1, len(seen) + 1)):
        wrong.append("a gap or a repeat")
    told = [(event["type"], event.get("step")) for event in seen]
    once = [(f"pipeline.step.{what}", step) for step in STEPS for what in ("started", "completed")]
    if told != [*once, ("pipeline.completed", None)]:
        wrong.append("other events than a run's")
    for step in kept:
        key = f"{job}:{step}"
        if after.get(key, 0) != before.get(key, 0):
            wrong.append("a finished step done again")
    again = any(after.get(f"{job}:{step}", 0) > 1 for step in STEPS)
    return [
        *(wrong or ["right"]),
        *(["step done again"] if again else []),
        *(["killed before its end"] if len(kept) < 3 else []),
    ]


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
