"""kill -9 at random moments of every pipeline: `python -m bench.pipelines.kill [POINTS]`.

Rounds of runs of all six pipelines, asked for in all three ways by clients who come back where they were cut off. In
the middle of a round one process is killed and started again: an orchestrator of two, both of them, an image worker of
two, the chat worker; or Postgres is frozen, or killed, for 30 s. It goes on, with runs of those pipelines that still
lack some, until each pipeline had POINTS (30) runs under way when an orchestrator was killed, and as many when a worker
was.

Of each run is checked: it ended once and completed, with the picture and the words that belong to it; its client saw
every event once, in order, without a gap; no request that an engine had finished was made again, by its idempotency
key. Where each run stood at the kill is counted; one that had not asked an engine for anything is no point. The engines
are stand-ins that keep and join by the workers' own code.
"""

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg

from bench.pipelines.trial import STEPS, WAYS, Client, Job, Trial, load, trial
from orchestrator.operate.seal import Seal, contents_key

ALL, FEW = 102, 42  # runs in a round; in one without the database, which is long by itself
WINDOW = 2.0  # seconds over which a round's runs are begun
AWAY_SECONDS = 30.0
FIRST = "before its first step"
FILE = Path(__file__).parent.parent / "results" / "pipelines-kill.json"
_ODD = """
select 'odd', count(*) from jobs j where ended_at is null
    or (select count(*) from job_events e where e.job = j.id and name in ('pipeline.completed', 'error')) <> 1
"""
Points = dict[str, dict[str, Counter[str]]]


async def _orchestrator(trial: Trial, rng: random.Random) -> None:
    one = rng.choice(trial.orchestrators)
    await one.end(9)
    await one.start()


async def _orchestrators(trial: Trial, rng: random.Random) -> None:
    for one in trial.orchestrators:
        await one.end(9)
    await asyncio.gather(*(one.start() for one in trial.orchestrators))


async def _image(trial: Trial, rng: random.Random) -> None:
    one = rng.choice(trial.images)
    await one.end()
    await one.start()


async def _chat(trial: Trial, rng: random.Random) -> None:
    await trial.chat.end()
    await trial.chat.start()


async def _frozen(trial: Trial, rng: random.Random) -> None:
    await trial.database.frozen(AWAY_SECONDS)


async def _killed(trial: Trial, rng: random.Random) -> None:
    await trial.database.killed(AWAY_SECONDS)


VICTIMS: dict[str, Callable[[Trial, random.Random], Awaitable[None]]] = {
    "an orchestrator": _orchestrator,
    "both orchestrators": _orchestrators,
    "an image worker": _image,
    "the chat worker": _chat,
    "Postgres, frozen for 30 s": _frozen,
    "Postgres, killed for 30 s": _killed,
}
ORCHESTRATORS, WORKERS = ("an orchestrator", "both orchestrators"), ("an image worker", "the chat worker")


async def main(points: int) -> None:
    rng, found, wrong, rounds = random.Random(9), _nothing(), Counter[str](), []
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with trial(Path(folder)) as running:
            for victim, names in _victims(found, points):
                rounds.append(await _round(running, victim, names, rng, found, wrong))
                print(rounds[-1], dict(wrong), flush=True)
                result = {"runs": running.asked, "wrong": dict(wrong), **await _checked(running)}
                result["points"] = {victim: {name: dict(at) for name, at in of.items()} for victim, of in found.items()}
                FILE.write_text(json.dumps({**result, "rounds": rounds}, indent=1) + "\n")  # so far
    print(json.dumps(result, indent=1))
    bad = {**wrong, **{name: result[name] for name in ("finished_requests_made_again", "ended_otherwise")}}
    sys.exit(f"wrong: {bad}" if any(bad.values()) else 0)


def _nothing() -> Points:
    return {victim: defaultdict(Counter) for victim in VICTIMS}


def _within(places: Counter[str]) -> int:
    """Runs of which an engine had been asked for something."""
    return places.total() - places[FIRST]


def _victims(found: Points, points: int) -> Iterator[tuple[str, Sequence[str]]]:
    """Whom to kill next, and under runs of which pipelines."""
    for victim in VICTIMS:
        yield victim, list(STEPS)
    for group in (ORCHESTRATORS, WORKERS):
        for victim in cycle(reversed(group)):
            lacking = [name for name in STEPS if sum(_within(found[one][name]) for one in group) < points]
            if not lacking:
                break
            yield victim, lacking


async def _round(
    trial: Trial, victim: str, pipelines: Sequence[str], rng: random.Random, found: Points, wrong: Counter[str]
) -> dict[str, Any]:
    each = (FEW if victim.startswith("Postgres") else ALL) // len(pipelines)
    names = [name for name in pipelines for _ in range(each)]
    jobs = [Job(name, WAYS[at % len(WAYS)], trial.asked + at) for at, name in enumerate(names)]
    trial.asked += len(jobs)

    async def asked(job: Job, after: float) -> None:
        await asyncio.sleep(after)
        await Client(trial, job, rng).run()

    clients = [asyncio.create_task(asked(job, rng.uniform(0, WINDOW))) for job in jobs]
    # However fast this machine is now: somewhere in the round's work.
    before, requests = trial.begun(), sum(len(STEPS[name]) for name in names)
    until = before + rng.randint(requests // 10, requests * 9 // 10)
    while trial.begun() < until:  # noqa: ASYNC110 - the engines write a file
        await asyncio.sleep(0.01)
    await asyncio.sleep(rng.uniform(0.0, 0.1))
    at = time.time()
    await VICTIMS[victim](trial, rng)
    for job, outcome in zip(jobs, await asyncio.gather(*clients, return_exceptions=True), strict=True):
        problems = [repr(outcome)[:200]] if outcome is not None else job.wrong()
        wrong.update(f"{victim}: {job.pipeline}: {problem}" for problem in problems)
        if problems:
            print(job.id, job.pipeline, job.way, problems, job.breaks, flush=True)
            print([event.get("error") or event.get("step") or event["type"] for event in job.seen], flush=True)
    calls = trial.calls()
    cut = [job for job in jobs if job.began < at < job.ended]
    for job in cut:
        found[victim][job.pipeline][_where(job, calls, at)] += 1
    late = [job.ended - at for job in cut] or [0.0]
    return {
        **{"killed": victim, "pipelines": pipelines, "runs": len(jobs), "under_way": len(cut)},
        "breaks": sum(job.breaks for job in jobs),
        **{"ended_after_seconds_p50": round(statistics.median(late), 1), "last": round(max(late), 1), "load": load()},
    }


def _where(job: Job, calls: dict[str, dict[str, list[float]]], at: float) -> str:
    """Where a run was at this time, by what the engines were asked for."""
    place = FIRST
    for step in STEPS[job.pipeline]:
        of = [events for key, events in calls.items() if f"{key}:".startswith(f"{job.id}:{step}:")]
        if any(then < at for events in of for then in events["finished"]):
            place = f"after {step}"
        elif any(then < at for events in of for then in events["begun"]):
            return f"in {step}"
    return place


async def _checked(trial: Trial) -> dict[str, Any]:
    """What the engines and the database say of all runs."""
    calls = trial.calls()
    again = [key for key, events in calls.items() if len(events["finished"]) > 1]
    async with await psycopg.AsyncConnection.connect(trial.database.dsn) as connection:

        async def counted(query: str) -> dict[str, int]:
            return {str(name): count for name, count in await (await connection.execute(query.encode())).fetchall()}

        return {
            "requests_begun": sum(len(events["begun"]) for events in calls.values()),
            "requests_begun_more_than_once": sum(len(events["begun"]) > 1 for events in calls.values()),
            "finished_requests_made_again": len(again),
            "made_again": {key: dict(calls[key]) for key in again},
            "states": await counted("select state, count(*) from jobs group by 1"),
            "attempts": await counted("select attempts, count(*) from jobs group by 1 order by 1"),
            "errors": await counted("select error ->> 'code', count(*) from jobs where error is not null group by 1"),
            "captions": await _captions(connection, Seal(contents_key(trial.folder / "keys" / "contents_key"))),
            "ended_otherwise": (await counted(_ODD))["odd"],
        }


async def _captions(connection: psycopg.AsyncConnection[Any], seal: Seal) -> dict[str, int]:
    """How many captions came from where. Answers are kept sealed."""
    rows = await (await connection.execute("select id, answer from jobs where answer is not null")).fetchall()
    answers = [seal.unwrap(answer, job_id) for job_id, answer in rows]
    return dict(Counter(answer["caption_source"] for answer in answers if answer.get("caption") is not None))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
