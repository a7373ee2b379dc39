"""Requests at once, at several orchestrators together: never more than the limit, whoever holds what, whoever dies."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from core.db.pool import Pool, open_pool
from core.errors import Unavailable
from orchestrator.access.slots import Slots
from tests.fakes.cable import cable
from tests.fakes.wait import answers


@pytest.fixture
async def pool(migrated_dsn: str) -> AsyncIterator[Pool]:
    async with open_pool(migrated_dsn, size=4) as opened:
        yield opened


@pytest.mark.parametrize("most", [1, 3, 40])
async def test_never_more_at_once_than_the_limit_however_many_orchestrators(pool: Pool, most: int) -> None:
    """Requests come and go at random at three of them, with trims between."""
    several, random = [Slots(pool) for _ in range(3)], Random(most)
    running: list[Slots] = []
    let_in = 0

    async def come(slots: Slots) -> None:
        nonlocal let_in
        if await slots.enter("k", most):
            running.append(slots)
            let_in += 1
            assert len(running) <= most

    for _ in range(12):
        await asyncio.gather(*(come(random.choice(several)) for _ in range(most)), random.choice(several).trim())
        for slots in random.sample(running, len(running) // 2 + (len(running) == 1)):
            running.remove(slots)
            slots.leave("k")
    assert let_in >= 3, "and it is not refused for ever"


async def test_what_one_does_not_need_the_other_gets(pool: Pool) -> None:
    one, other = Slots(pool), Slots(pool)
    for _ in range(4):
        assert await one.enter("k", 4)
    assert not await other.enter("k", 4)
    for _ in range(3):
        one.leave("k")
    await one.trim()  # what was needed since the last time
    await one.trim()
    other = Slots(pool)
    assert [await other.enter("k", 4) for _ in range(4)] == [True] * 3 + [False]


class AnsweredSlots(Slots):
    """Where the database has answered, nobody hears it before `heard` is set."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.answered, self.heard = asyncio.Event(), asyncio.Event()

    async def _ask(self, wanted: list[tuple[str, int, int]]) -> dict[str, int]:
        granted = await super()._ask(wanted)
        self.answered.set()
        await self.heard.wait()
        return granted


async def test_a_place_for_one_who_left_meanwhile_comes_back(pool: Pool) -> None:
    slots = AnsweredSlots(pool)
    leaving = asyncio.create_task(slots.enter("k", 1))
    await slots.answered.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    slots.heard.set()

    async def another_enters() -> bool:
        await slots.trim()
        return await Slots(pool).enter("k", 1)

    await answers(another_enters, "a free place")


async def test_what_a_dead_one_held_is_free_when_its_lease_is_over(pool: Pool) -> None:
    dead = Slots(pool, lease=0.05)
    assert await dead.enter("k", 1)
    await answers(lambda: Slots(pool).enter("k", 1), "a free place")
    assert not await dead.enter("k", 1), "it was not dead: it learns that another has it"


async def test_a_stop_gives_all_back(pool: Pool) -> None:
    one = Slots(pool)
    keeping = asyncio.ensure_future(one.keep())
    assert await one.enter("k", 1)
    await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert await Slots(pool).enter("k", 1)


async def test_most_requests_ask_no_database(pool: Pool) -> None:
    slots = Slots(pool)
    assert await slots.enter("k", 160)
    slots._pool = None  # type: ignore[assignment]  # whoever asks now fails
    for _ in range(9):
        assert await slots.enter("k", 160)
    for _ in range(200):
        slots.leave("k")
        assert await slots.enter("k", 160)


async def test_a_limit_that_is_overrun_asks_seldom(pool: Pool) -> None:
    slots = Slots(pool)
    assert await slots.enter("k", 1)
    assert not await slots.enter("k", 1)
    slots._pool = None  # type: ignore[assignment]
    assert not await slots.enter("k", 1)


async def test_without_the_database_what_is_held_is_given_out_and_then_it_is_said(
    migrated_dsn: str, tmp_path: Path
) -> None:
    async with cable(migrated_dsn, tmp_path) as line, open_pool(line.dsn, size=1) as opened:
        slots = Slots(opened)
        assert await slots.enter("k", 32)
        line.cut()
        assert await slots.enter("k", 32)
        with pytest.raises(Unavailable) as caught:
            await slots.enter("k", 32)
        assert caught.value.code == "database_unavailable"
        await slots.trim()
        slots.leave("k")
        assert await slots.enter("k", 32)


async def test_who_asks_nothing_any_more_leaves_nothing_behind(pool: Pool) -> None:
    slots = Slots(pool)
    for at in range(5):
        assert await slots.enter(f"k-{at}", 3)
        slots.leave(f"k-{at}")
    for _ in range(3):
        await slots.trim()
    assert slots._shares == {}
    async with pool.connection() as connection:
        assert await (await connection.execute("select * from slots")).fetchall() == []
