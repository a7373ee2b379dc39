"""Which queued jobs are begun: as many of a pool as there are places, shared among tenants, by whoever is free."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic import AnyHttpUrl
from yarl import URL

from core.db.pool import Pool, open_pool
from core.wire.workers import Announcement
from orchestrator.access.keys import create_key
from orchestrator.jobs.dispatch import places
from orchestrator.jobs.queue import JobQueue
from orchestrator.jobs.store import JobStore
from orchestrator.jobs.values import AT_ONCE, VERSION
from orchestrator.operate.seal import Seal
from orchestrator.workers.worker import Worker
from tests.fakes.studio import Studio
from tests.fakes.wait import answers, eventually, soon
from tests.orchestrator.test_jobs import ASKED, PATH, ended


def worker(name: str, capacity: int, *roles: str, kind: str = "image") -> Worker:
    said = Announcement(id=name, kind=kind, url=AnyHttpUrl("http://w:1"), capacity=capacity, roles=roles)  # type: ignore[arg-type]
    return Worker(said, URL("http://w:1"), None, time.monotonic() + 3600)


THERE = [worker("a", 4, "shorts"), worker("b", 2, "shorts", "scenes"), worker("c", 8), worker("d", 16, kind="chat")]


@pytest.mark.parametrize(
    ("role", "found"),
    [("shorts", 6), ("scenes", 2), ("chat1to1", 14), (None, 14)],
    ids=["two of its own", "one that it shares", "none of its own: all that draw", "any"],
)
def test_a_pools_places_are_what_its_workers_declare(role: str | None, found: int) -> None:
    assert places(THERE, role) == found


def test_no_worker_has_no_place() -> None:
    assert places([], "shorts") == places([THERE[-1]], None) == 0


# -- the claim --------------------------------------------------------------------------------------------------------

_ADD = """
insert into jobs (id, pipeline, tenant, key_id, way, pool, priority, caller, request, request_sha256, deadline_at,
                  state, attempts, executor, version)
select 'job_' || lpad(to_hex(nextval('job_numbers')), 24, '0'), 'chat1to1', %(tenant)s,
       (select id from api_keys limit 1), %(way)s, %(pool)s, %(priority)s, %(caller)s, '{}', repeat('0', 64),
       now() + interval '1 hour',
       %(state)s, case when %(state)s = 'running' then 1 else 0 end,
       case when %(state)s = 'running' then 'another' end, %(version)s
  from generate_series(1, %(jobs)s)
"""
POOL = "chat1to1"
CALLER: dict[str, Any] = {
    "request_id": "r",
    "route": "/",
    "session": None,
    "asked_tier": None,
    "max_tier": 0,
    "scopes": [],
}


class Line:
    """The table of jobs, filled by a test, and who claims from it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.queue = JobQueue(pool, JobStore(pool, Seal(bytes(32))))

    async def add(self, tenant: str, jobs: int, state: str = "queued", **given: Any) -> None:
        row = {"way": "background", "pool": POOL, "priority": 0, "version": VERSION, "caller": Jsonb(CALLER), **given}
        async with self.pool.connection() as connection:
            await connection.execute("insert into tenants (id) values (%s) on conflict do nothing", (tenant,))
            await connection.execute(_ADD, {**row, "tenant": tenant, "jobs": jobs, "state": state})

    async def claimed(self, places: int, pool: str = POOL, executor: str = "me") -> list[Any]:
        """All that can be begun now."""
        claims = []
        while found := await self.queue.claim(pool, places, executor):
            claims += found
        return claims

    async def end_all(self) -> None:
        async with self.pool.connection() as connection:
            await connection.execute(
                "update jobs set state = 'cancelled', error = '{}', ended_at = now() where state = 'running'"
            )


@pytest.fixture
async def line(migrated_dsn: str) -> AsyncIterator[Line]:
    async with open_pool(migrated_dsn, size=8) as pool:
        await create_key(pool, "local", ["pipelines"])
        async with pool.connection() as connection:
            await connection.execute("create sequence job_numbers")
        yield Line(pool)


CASES: dict[str, tuple[Mapping[str, int], Mapping[str, int], int, Mapping[str, int]]] = {
    "alone": ({"a": 20}, {}, 12, {"a": 12}),
    "two share": ({"a": 20, "b": 20}, {}, 12, {"a": 6, "b": 6}),
    "who wants little leaves the rest": ({"a": 20, "b": 1}, {}, 12, {"a": 11, "b": 1}),
    "who has much at work waits": ({"a": 20, "b": 20}, {"a": 8}, 12, {"b": 4}),
    "more tenants than places": ({f"t{n}": 2 for n in range(6)}, {}, 4, {}),
    "no place": ({"a": 3}, {"a": 1, "b": 1}, 2, {}),
    "fewer places than are at work": ({"a": 3}, {"b": 4}, 2, {}),
}


@pytest.mark.parametrize("case", CASES)
async def test_places_are_shared_evenly_among_those_who_have_jobs(line: Line, case: str) -> None:
    queued, at_work, places, shares = CASES[case]
    for tenant, jobs in queued.items():
        await line.add(tenant, jobs)
    for tenant, jobs in at_work.items():
        await line.add(tenant, jobs, "running")
    found = Counter(claim.caller.key.tenant for claim in await line.claimed(places))
    if case == "more tenants than places":
        assert sorted(found.values()) == [1] * places, "each that has a place has one"
    else:
        assert found == shares


async def test_a_tenants_own_jobs_go_by_priority_and_then_by_age(line: Line) -> None:
    for priority in (0, 9, 5, 9):
        await line.add("a", 1, priority=priority)
    claims = []
    for free in range(1, 5):
        claims += await line.queue.claim(POOL, free, "me")
    assert [claim.caller.priority for claim in claims] == [9, 9, 5, 0]
    assert claims[0].id < claims[1].id
    assert {claim.attempt for claim in claims} == {1}


async def test_many_who_claim_at_once_never_pass_the_places(line: Line) -> None:
    for tenant in ("a", "b", "c"):
        await line.add(tenant, 30)
    found = await soon(asyncio.gather(*(line.claimed(12, executor=f"e{number}") for number in range(4))))
    claims = [claim for claims in found for claim in claims]
    assert Counter(claim.caller.key.tenant for claim in claims) == {"a": 4, "b": 4, "c": 4}
    assert len({claim.id for claim in claims}) == 12, "none has two owners"


async def test_one_claim_leaves_places_to_others(line: Line) -> None:
    await line.add("a", 20)
    assert [len(await line.queue.claim(POOL, 12, who)) for who in ("e1", "e2", "e1", "e2")] == [6, 3, 2, 1]


async def test_who_has_the_older_jobs_does_not_keep_the_only_place(line: Line) -> None:
    await line.add("old", 64)
    await line.add("new", 1)
    for _ in range(64):
        (claim,) = await line.claimed(1)
        if claim.caller.key.tenant == "new":
            return
        await line.end_all()
    raise AssertionError("the other tenant waited for all of them")


async def test_what_somebody_waits_for_takes_no_place_and_other_steps_are_left(line: Line) -> None:
    await line.add("a", 4, "running")
    await line.add("a", 40, way="wait", pool=AT_ONCE)
    await line.add("b", 1, version="another")
    assert await line.claimed(4) == []
    assert len(await line.claimed(2**15, AT_ONCE)) == 40
    assert await line.claimed(8) == []


async def test_a_job_that_cannot_be_read_ends_alone(line: Line) -> None:
    await line.add("a", 1, caller=Jsonb({}))
    await line.add("b", 1)
    claims = await line.claimed(4)
    assert [claim.caller.key.tenant for claim in claims] == ["b"]
    async with line.pool.connection() as connection:
        rows = await (await connection.execute("select tenant, state from jobs order by tenant")).fetchall()
    assert [(row["tenant"], row["state"]) for row in rows] == [("a", "failed"), ("b", "running")]


# -- a studio ---------------------------------------------------------------------------------------------------------


async def test_a_queue_goes_on_by_itself_and_each_tenant_has_its_turn(durable_dsn: str, durable_studio: Studio) -> None:
    """Two places, and one tenant's three jobs. The other's comes after them, and is begun before the third."""
    studio = durable_studio
    await studio.chat_worker()
    image = await studio.image_worker(roles=["chat1to1"], capacity=2)
    image.held.clear()
    other = (await studio.post("/v1/keys", {"name": "other", "scopes": ["pipelines"]})).json()["secret"]
    async with await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True, row_factory=dict_row) as connection:
        await connection.execute("insert into tenants (id) values ('acme')")
        await connection.execute("update api_keys set tenant = 'acme' where name = 'other'")
    made = [(await studio.post(PATH, {**ASKED, "background": True})).json() for _ in range(3)]
    last = (await studio.post(PATH, {**ASKED, "background": True}, key=other)).json()
    assert [job["state"] for job in (*made, last)] == ["running", "running", "queued", "queued"]
    await eventually(lambda: image.running == 2)
    await studio.post(f"/v1/jobs/{made[0]['id']}/cancel")

    async def begun() -> bool:
        return bool((await studio.get(f"/v1/jobs/{last['id']}", key=other)).json()["state"] == "running")

    await answers(begun, "the other tenant's turn")
    assert (await studio.get(f"/v1/jobs/{made[2]['id']}")).json()["state"] == "queued"
    image.held.set()
    for job in made[1:]:
        assert (await ended(studio, job["id"]))["state"] == "completed"
