"""kill -9 at random moments of every pipeline: `python -m bench.pipelines.kill [POINTS]`.

Rounds of runs of all six pipelines, in all three ways, by clients who come back where they were cut off. In the middle
of a round one process is killed and started again: an orchestrator of two, both, an image worker of two, the chat
worker; or Postgres is frozen, or killed, for 30 s. It goes on until each pipeline had POINTS (30) runs under way when
an orchestrator was killed, and as many when a worker was; one that had asked no engine for anything is no point.

Checked of each run: it ended once and completed, with the picture and words that belong to it; its client saw every
event once, in order, without a gap; no request that an engine had finished was made again, by its idempotency key.
"""

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg

from bench.harness import Program, quantile, save
from bench.pipelines.client import WAYS, Client, Job
from bench.pipelines.studio import STEPS, Calls, Studio, freeze_database, kill, kill_database, studio

ALL, FEW = 102, 42  # runs in a round; in one without the database, which is long by itself
WINDOW, AWAY_SECONDS = 2.0, 30.0  # over which a round's runs are begun; without a database
FIRST = "before its first step"
_ODD = """
select 'odd', count(*) from jobs j where ended_at is null
    or (select count(*) from job_events e where e.job = j.id and name in ('pipeline.completed', 'error')) <> 1
"""


async def _again(*programs: Program) -> None:
    """kill -9, and a start at the same address."""
    for one in programs:
        await kill(one)
    await asyncio.gather(*(one.start("/readyz") for one in programs))


VICTIMS: dict[str, Callable[[Studio, random.Random], Awaitable[None]]] = {
    "an orchestrator": lambda studio, rng: _again(rng.choice(studio.orchestrators)),
    "both orchestrators": lambda studio, _: _again(*studio.orchestrators),
    "an image worker": lambda studio, rng: _again(rng.choice(studio.images)),
    "the chat worker": lambda studio, _: _again(studio.engines["chat"]),
    "Postgres, frozen for 30 s": lambda studio, _: freeze_database(studio.folder, AWAY_SECONDS),
    "Postgres, killed for 30 s": lambda studio, _: kill_database(studio.folder, AWAY_SECONDS),
}
GROUPS = (("both orchestrators", "an orchestrator"), ("the chat worker", "an image worker"))


class Rounds:
    """`points`: by whom was killed and pipeline, where runs were at that moment."""

    def __init__(self, studio: Studio) -> None:
        self.points: dict[str, dict[str, Counter[str]]] = {victim: defaultdict(Counter) for victim in VICTIMS}
        self.wrong = Counter[str]()
        self.rounds: list[dict[str, Any]] = []
        self._studio = studio
        self._rng = random.Random(9)
        self._asked = 0

    def victims(self, points: int) -> Iterator[tuple[str, Sequence[str]]]:
        """Whom to kill next, and under runs of which pipelines."""
        for victim in VICTIMS:
            yield victim, list(STEPS)
        for group in GROUPS:
            for victim in cycle(group):
                lacking = [name for name in STEPS if sum(self._within(one, name) for one in group) < points]
                if not lacking:
                    break
                yield victim, lacking

    def _within(self, victim: str, pipeline: str) -> int:
        places = self.points[victim][pipeline]
        return places.total() - places[FIRST]

    async def round(self, victim: str, pipelines: Sequence[str]) -> None:
        each = (FEW if victim.startswith("Postgres") else ALL) // len(pipelines)
        names = [name for name in pipelines for _ in range(each)]
        jobs = [Job(name, WAYS[at % len(WAYS)], self._asked + at) for at, name in enumerate(names)]
        self._asked += len(jobs)
        clients = [asyncio.create_task(self._client(job)) for job in jobs]
        # However fast this machine is now: somewhere in the round's work.
        before, requests = self._studio.begun(), sum(len(STEPS[name]) for name in names)
        until = before + self._rng.randint(requests // 10, requests * 9 // 10)
        while self._studio.begun() < until:  # noqa: ASYNC110 - the engines write a file
            await asyncio.sleep(0.01)
        await asyncio.sleep(self._rng.uniform(0.0, 0.1))
        at = time.time()
        await VICTIMS[victim](self._studio, self._rng)
        for job, outcome in zip(jobs, await asyncio.gather(*clients, return_exceptions=True), strict=True):
            problems = job.wrong() if outcome is None else [repr(outcome)[:200]]
            self.wrong.update(f"{victim}: {job.pipeline}: {problem}" for problem in problems)
            if problems:
                events = [event.get("error") or event.get("step") or event["type"] for event in job.seen]
                print(job.id, job.pipeline, job.way, problems, job.breaks, events, flush=True)
        calls, cut = self._studio.calls(), [job for job in jobs if job.began < at < job.ended]
        for job in cut:
            self.points[victim][job.pipeline][_where(job, calls, at)] += 1
        late = [round(job.ended - at, 1) for job in cut] or [0.0]
        found = {"killed": victim, "pipelines": pipelines, "runs": len(jobs), "under_way": len(cut)}
        found |= {"breaks": sum(job.breaks for job in jobs), "load": os.getloadavg()}
        self.rounds.append({**found, "ended_after_seconds_p50": quantile(late, 0.5), "last": max(late)})

    async def _client(self, job: Job) -> None:
        await asyncio.sleep(self._rng.uniform(0, WINDOW))
        await Client(self._studio, job, self._rng).run()


def _where(job: Job, calls: Calls, at: float) -> str:
    """Where a run was at this time, by what the engines were asked for."""
    place = FIRST
    for step in STEPS[job.pipeline]:
        of = [events for key, events in calls.items() if f"{key}:".startswith(f"{job.id}:{step}:")]
        if any(then < at for events in of for then in events["finished"]):
            place = f"after {step}"
        elif any(then < at for events in of for then in events["begun"]):
            return f"in {step}"
    return place


async def _checked(studio: Studio) -> dict[str, Any]:
    """What the engines and the database say of all runs."""
    calls = studio.calls()
    async with await psycopg.AsyncConnection.connect(studio.dsn) as connection:

        async def counted(query: str) -> dict[str, int]:
            return {str(name): count for name, count in await (await connection.execute(query.encode())).fetchall()}

        return {
            "requests_begun": sum(len(events["begun"]) for events in calls.values()),
            "requests_begun_more_than_once": sum(len(events["begun"]) > 1 for events in calls.values()),
            "finished_requests_made_again": sum(len(events["finished"]) > 1 for events in calls.values()),
            "states": await counted("select state, count(*) from jobs group by 1"),
            "attempts": await counted("select attempts, count(*) from jobs group by 1 order by 1"),
            "errors": await counted("select error ->> 'code', count(*) from jobs where error is not null group by 1"),
            "ended_otherwise": (await counted(_ODD))["odd"],
        }


async def main(points: int) -> None:
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with studio(Path(folder), orchestrators=2, images=2, tick=0.05) as running:
            rounds = Rounds(running)
            for victim, pipelines in rounds.victims(points):
                await rounds.round(victim, pipelines)
                print(rounds.rounds[-1], dict(rounds.wrong), flush=True)
                result = {"wrong": rounds.wrong, **await _checked(running), "points": rounds.points}
                save("pipelines-kill", {**result, "rounds": rounds.rounds})  # so far
    print(json.dumps(result, indent=1))
    bad = {**rounds.wrong, **{name: result[name] for name in ("finished_requests_made_again", "ended_otherwise")}}
    sys.exit(f"wrong: {bad}" if any(bad.values()) else 0)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
