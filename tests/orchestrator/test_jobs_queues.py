"""How many background jobs are at work at once: the deciders, and what the durable engine is told."""

import math
import time

import psycopg
import pytest
from psycopg.rows import dict_row
from pydantic import AnyHttpUrl
from yarl import URL

from core.wire.workers import Announcement
from orchestrator.jobs.queues import BUSY_POLL_SECONDS, IDLE_POLL_SECONDS, Limits, limits, places
from orchestrator.workers.worker import Worker
from tests.fakes.studio import Studio
from tests.fakes.wait import answers, eventually
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


@pytest.mark.parametrize(
    ("free", "tenants", "most", "found"),
    [
        (12, 0, 64, Limits(12, 12, IDLE_POLL_SECONDS)),
        (12, 1, 64, Limits(12, 12, BUSY_POLL_SECONDS)),
        (12, 2, 64, Limits(12, 6, BUSY_POLL_SECONDS)),
        (12, 5, 64, Limits(12, 3, BUSY_POLL_SECONDS)),
        (12, 40, 64, Limits(12, 1, BUSY_POLL_SECONDS)),
        (300, 1, 64, Limits(64, 64, BUSY_POLL_SECONDS)),
        (0, 3, 64, Limits(1, 1, BUSY_POLL_SECONDS)),
    ],
    ids=["idle", "alone", "two share", "rounded up", "more than places", "at most so many", "no worker is there now"],
)
def test_places_are_shared_evenly_among_those_who_have_jobs(free: int, tenants: int, most: int, found: Limits) -> None:
    assert limits(free, tenants, most) == found


def test_nobody_gets_nothing_and_nobody_gets_more_than_all() -> None:
    for free in range(20):
        for tenants in range(1, 20):
            told = limits(free, tenants, 64)
            assert 1 <= told.tenant <= told.all
            assert told.tenant * tenants >= told.all, "no place is left empty"
            assert told.tenant <= math.ceil(told.all / tenants)


async def test_the_engine_is_told_what_workers_declare_and_tenants_share(
    durable_dsn: str, durable_studio: Studio
) -> None:
    studio = durable_studio
    await studio.chat_worker()
    image = await studio.image_worker(roles=["chat1to1"], capacity=6)
    image.held.clear()
    other = (await studio.post("/v1/keys", {"name": "other", "scopes": ["pipelines"]})).json()["secret"]
    async with await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True, row_factory=dict_row) as connection:
        await connection.execute("insert into tenants (id) values ('acme')")
        await connection.execute("update api_keys set tenant = 'acme' where name = 'other'")

        async def told() -> tuple[int, int, int]:
            query = "select * from dbos.queues where name = 'chat1to1'"
            row = await (await connection.execute(query)).fetchone()
            assert row is not None
            return row["concurrency"], row["worker_concurrency"], row["partition_concurrency"]

        async def is_told(*wanted: int) -> bool:
            return await told() == wanted

        first = (await studio.post(PATH, {**ASKED, "background": True})).json()["id"]
        await answers(lambda: is_told(6, 6, 6), "all places for the only tenant")
        second = (await studio.post(PATH, {**ASKED, "background": True}, key=other)).json()["id"]
        await answers(lambda: is_told(6, 6, 3), "half of the places for each of two")
    await eventually(lambda: image.running == 2)
    image.held.set()
    assert (await ended(studio, first))["state"] == "completed"

    async def over() -> bool:
        job = (await studio.get(f"/v1/jobs/{second}", key=other)).json()
        return bool(job["state"] == "completed")

    await answers(over, "the other tenant's job")
