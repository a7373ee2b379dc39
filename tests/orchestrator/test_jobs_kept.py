"""What a run does is kept at once and in its order; an older attempt keeps nothing; what nobody carries out any more is
taken up, its finished steps with it."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from dataclasses import MISSING
from typing import Any, cast

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Json, Jsonb

from core.errors import ContentPolicy, SoundstageError
from orchestrator.jobs import flow as flows
from orchestrator.jobs.events import EventWriter, NewEvent
from orchestrator.jobs.flow import DurableFlow, LostError, Turns
from orchestrator.jobs.followers import Followers, _Follower
from orchestrator.jobs.locks import lock_key
from orchestrator.jobs.store import JobStore
from orchestrator.jobs.values import VERSION, Claim, End
from orchestrator.operate.seal import Seal
from orchestrator.pipelines.flow import COMPLETED, STARTED, Event
from orchestrator.policy.decide import CHECK_FAILED
from tests.fakes.studio import Studio
from tests.fakes.wait import answers, soon
from tests.orchestrator.test_jobs import ASKED, PATH, ended

Connection = psycopg.AsyncConnection[dict[str, Any]]

_COPY = """
insert into jobs (id, pipeline, tenant, key_id, way, caller, request, request_sha256, deadline_at, state, attempts,
                  started_at, executor, version)
select %s, pipeline, tenant, key_id, way, caller, %s, request_sha256, now() + interval '1 hour', 'running', 1,
       now() - interval '1 minute', %s, %s
  from jobs where id = %s
"""


@pytest.fixture
async def connection(durable_dsn: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True, row_factory=dict_row) as found:
        yield found


JOB = "job_" + "a" * 24


async def running(connection: Connection, executor: str, version: str = VERSION, *events: dict[str, Any]) -> None:
    """A run like one that is over, but at work, and these are kept of it."""
    async with connection.transaction():
        over = await (await connection.execute("select id from jobs limit 1")).fetchone()
        assert over is not None
        await connection.execute(_COPY, (JOB, Jsonb(ASKED), executor, version, over["id"]))
        assert None not in await keep(connection, *events)


def told(key: str, attempt: int = 1, **more: Any) -> dict[str, Any]:
    return {"job": JOB, "attempt": attempt, "key": key, "name": key, "data": {"b": 1, "a": 2}, **more}


def step(name: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a finished step."""
    started = told(f"{name}/{STARTED}", name=STARTED, data={"step": name})
    return [started, told(f"{name}/{COMPLETED}", name=COMPLETED, data={"step": name, "result": result})]


async def keep(connection: Connection, *events: dict[str, Any]) -> list[int | None]:
    row = await (await connection.execute("select keep_events(%s::json) as kept", (Json(list(events)),))).fetchone()
    assert row is not None
    return list(row["kept"])


async def workers(studio: Studio) -> Any:
    chat = await studio.chat_worker()
    return chat, await studio.image_worker(roles=["chat1to1"])


async def test_events_are_kept_once_and_by_the_newest_attempt_alone(
    durable_studio: Studio, connection: Connection
) -> None:
    await workers(durable_studio)
    await durable_studio.post(PATH, ASKED)
    await connection.execute("select pg_advisory_lock(%s)", (lock_key("executor", "another"),))  # it lives
    await running(connection, "another")
    assert await keep(connection, told("one"), told("two"), told("one")) == [1, 2, 1]
    await connection.execute("update jobs set attempts = 2 where id = %s", (JOB,))
    end = {"state": "completed", "answer": {"z": 1, "a": 2}, "tokens": 5, "image_steps": 4}
    assert await keep(connection, told("three"), told("end", end=end)) == [None, None]
    assert await keep(connection, told("one", 2), told("three", 2), told("end", 2, end=end)) == [1, 3, 4]
    assert await keep(connection, told("end", 2, end=end), told("four", 2)) == [None, None], "it has ended"
    row = await (await connection.execute("select *, answer::text as text from jobs where id = %s", (JOB,))).fetchone()
    assert row is not None
    assert (row["state"], row["events"], row["tokens"], row["image_steps"]) == ("completed", 4, 5, 4)
    assert row["text"] == json.dumps(end["answer"]), "as it was given"


@pytest.mark.parametrize("forgot", [False, True], ids=["its process is gone", "its process forgot it"])
async def test_a_run_that_nobody_carries_out_is_taken_up_with_its_finished_steps(
    durable_studio: Studio, connection: Connection, forgot: bool
) -> None:
    chat, image = await workers(durable_studio)
    first = (await durable_studio.post(PATH, ASKED)).headers["x-job-id"]
    row = await (await connection.execute("select executor from jobs")).fetchone()
    assert row is not None
    expanded = (await durable_studio.get(f"/v1/jobs/{first}/events")).json()["data"][1]["result"]
    asked = len(await chat.received())
    result = {**expanded, "prompt": "a green pear"}
    await running(connection, row["executor"] if forgot else "gone", VERSION, *step("expand", result))
    over = await ended(durable_studio, JOB)
    assert (over["state"], over["attempts"], over["result"]["prompt_used"]) == ("completed", 2, "a green pear")
    assert image.received[-1]["prompt"] == "a green pear"
    assert len(await chat.received()) - asked == 1, "the caption alone"
    numbers = [e["sequence_number"] for e in (await durable_studio.get(f"/v1/jobs/{JOB}/events")).json()["data"]]
    assert numbers == list(range(1, 8))


@pytest.mark.parametrize("touched", [False, True], ids=["no step was finished", "a step was finished"])
async def test_an_upgrade_takes_up_what_was_waited_for(
    durable_studio: Studio, connection: Connection, touched: bool
) -> None:
    await workers(durable_studio)
    await durable_studio.post(PATH, ASKED)
    await running(connection, "gone", "0", *(step("expand", {}) if touched else ()))
    over = await ended(durable_studio, JOB)
    assert over["state"] == ("failed" if touched else "completed")
    assert not touched or over["error"]["code"] == "upgraded"


async def test_an_event_that_the_database_refuses_is_told_its_run_and_its_neighbours_are_kept(
    durable_studio: Studio, durable_dsn: str, connection: Connection
) -> None:
    await workers(durable_studio)
    await durable_studio.post(PATH, ASKED)
    await running(connection, "another")
    writer = EventWriter(durable_dsn, Followers(cast("JobStore", None)), Seal(bytes(32)))
    before = [
        await writer.put(NewEvent(JOB, 1, "one", "one", {})),
        await writer.put(NewEvent(JOB, 1, "two", "two", {})),
    ]
    refused = await writer.put(NewEvent(JOB, 2**40, "refused", "refused", {}))
    after = await writer.put(NewEvent(JOB, 1, "three", "three", {}))
    writing = asyncio.ensure_future(writer.write())
    try:
        assert [await soon(kept) for kept in (*before, after)] == [1, 2, 3]
        with pytest.raises(SoundstageError):
            await soon(refused)
        assert not writing.done()
    finally:
        writing.cancel()


# -- a run in memory: what it waits for -------------------------------------------------------------------------------


class SlowWriter(EventWriter):
    """Keeps when it is told to. `refused`: it is another's run."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.kept: list[asyncio.Future[int | None]] = []

    async def put(self, event: Any) -> Any:
        self.events.append(event.key)
        self.kept.append(asyncio.get_running_loop().create_future())
        return self.kept[-1]

    def keep(self, number: int | None = 1) -> None:
        for future in self.kept:
            if not future.done():
                future.set_result(number)


def claim(**given: Any) -> Claim:
    values: dict[str, Any] = {one.name: None for one in dataclasses.fields(Claim) if one.default_factory is MISSING}
    own = {"id": "job", "pipeline": "p", "way": "wait", "attempt": 1}
    return Claim(**{**values, **own, **given})


async def turns() -> None:
    """Whoever can go on has gone on."""
    for _ in range(8):
        await asyncio.sleep(0)


async def test_many_steps_begin_in_turns_of_their_own() -> None:
    turns, order = Turns(), []

    async def begins(name: str) -> None:
        await turns.mine()
        order.append(name)

    async def passes() -> None:
        await asyncio.sleep(0)
        order.append("short")

    await soon(asyncio.gather(*(begins(name) for name in "abcdef"), passes()))
    assert order.index("short") <= 1, "it stands behind one of them, not behind all"
    assert [name for name in order if name != "short"] == list("abcdef")


async def test_a_step_begins_when_the_one_before_is_kept() -> None:
    writer, began = SlowWriter(), []

    async def do(key: str) -> dict[str, Any]:
        began.append(key)
        return {"cost": {"tokens": 2, "image_steps": 3}}

    async def pipeline(flow: DurableFlow) -> None:
        await flow.step("one", do)
        await flow.step("two", do)
        await flow.end(End("completed", {}, None))

    flow = DurableFlow(claim(), writer, Turns(), {})
    running = asyncio.ensure_future(pipeline(flow))
    await turns()
    assert began == ["job:one"], "nothing is before the first"
    assert writer.events == [f"one/{STARTED}", f"one/{COMPLETED}", f"two/{STARTED}"], "in one statement"
    writer.keep()
    await turns()
    assert began == ["job:one", "job:two"]
    assert writer.events[3:] == [f"two/{COMPLETED}", "end"], "in one statement"
    assert not running.done()
    writer.keep()
    await soon(running)
    assert (flow.tokens, flow.image_steps) == (4, 6)


async def test_a_run_that_is_anothers_goes_no_further() -> None:
    writer, began = SlowWriter(), []

    async def do(key: str) -> int:
        began.append(key)
        return 1

    flow = DurableFlow(claim(), writer, Turns(), {})
    assert await flow.step("one", do) == 1
    second = asyncio.ensure_future(flow.step("two", do))
    await turns()
    writer.keep(None)
    with pytest.raises(LostError):
        await soon(second)
    assert began == ["job:one"]


async def test_a_policy_that_cannot_be_read_is_waited_for_and_one_that_refuses_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flows, "PAUSES", (0.0, 0.0))
    refusals = [CHECK_FAILED, CHECK_FAILED, "minors"]

    async def do(key: str) -> int:
        raise ContentPolicy("refused", code=refusals.pop(0))

    with pytest.raises(ContentPolicy) as caught:
        await soon(DurableFlow(claim(), SlowWriter(), Turns(), {}).step("one", do))
    assert (caught.value.code, refusals) == ("minors", [])
    monkeypatch.setattr(flows, "UNREAD_SECONDS", -1.0)
    refusals = [CHECK_FAILED]
    with pytest.raises(ContentPolicy):
        await soon(DurableFlow(claim(), SlowWriter(), Turns(), {}).step("one", do))


async def test_a_finished_step_is_not_done_again_and_its_cost_counts() -> None:
    writer = SlowWriter()
    flow = DurableFlow(claim(attempt=2, finished={"one": {"cost": {"tokens": 7}}}), writer, Turns(), {})

    async def never(key: str) -> dict[str, Any]:
        raise AssertionError(key)

    assert await flow.step("one", never) == {"cost": {"tokens": 7}}
    assert (flow.tokens, writer.events) == (7, [])


# -- who follows ------------------------------------------------------------------------------------------------------


def event(number: int) -> Event:
    return Event(number, "x", {})


def test_a_follower_takes_what_follows_and_looks_where_something_is_missing() -> None:
    follower = _Follower()
    follower.look = False
    for number in (1, 2, 3):
        follower.happened(event(number))
    assert [e.number for e in follower.next(1)] == [2, 3]
    follower.happened(event(5))
    assert (follower.next(3), follower.look) == ([], True)
    follower.look = False
    for number in range(6, 300):
        follower.happened(event(number))
    assert (follower.next(5), follower.look) == ([], True), "more than is kept for a slow client"


async def test_who_is_expected_reads_no_database_and_misses_nothing() -> None:
    class Store:
        async def events(self, job_id: str, after: int) -> list[dict[str, Any]]:
            raise AssertionError(job_id)

    followers = Followers(Store())  # type: ignore[arg-type]
    followers.expect("job")
    followers.happened("job", event(1))
    following = followers.follow("job", 0, 60)
    assert await soon(anext(following)) == event(1)
    followers.happened("job", Event(2, "error", {}))
    followers.over("job")
    assert [one async for one in following] == [Event(2, "error", {})]
    followers.expect("another")
    followers.over("another")
    assert (followers._expected, followers._followers) == ({}, {})


async def test_a_follower_here_reads_the_database_once() -> None:
    reads = 0

    class Store:
        async def events(self, job_id: str, after: int) -> list[dict[str, Any]]:
            nonlocal reads
            reads += 1
            return []

    followers = Followers(Store())  # type: ignore[arg-type]
    found: list[int] = []

    async def follow() -> None:
        async for each in followers.follow("job", 0, 60):
            assert each is not None
            found.append(each.number)

    following = asyncio.ensure_future(follow())

    async def follows() -> bool:
        return reads == 1

    await answers(follows)
    for number in (1, 2):
        followers.happened("job", event(number))
        await asyncio.sleep(0)
    followers.happened("job", Event(3, "pipeline.completed", {}))
    await soon(following)
    assert (found, reads) == ([1, 2, 3], 1)
