"""One flight for equal requests at several orchestrators: who makes it, who waits, and how long."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from core.db.pool import open_pool
from orchestrator.legacy.enhance.cache import CachedPrompt, EnhancementCache
from orchestrator.legacy.enhance.flights import Flights
from orchestrator.operate.seal import Seal
from tests.fakes.wait import soon

KEY, OTHER = "a" * 64, "b" * 64
MADE = CachedPrompt("a boat", "worker_fallback")


@pytest.fixture
async def cache(migrated_dsn: str) -> AsyncIterator[EnhancementCache]:
    async with open_pool(migrated_dsn) as pool:
        yield EnhancementCache(pool, Seal(bytes(32)))


async def rows(cache: EnhancementCache) -> list[tuple[str, str]]:
    async with cache.pool.connection() as connection:
        cursor = await connection.execute("select key, held_by from enhancement_flights")
        return [(row["key"], row["held_by"]) for row in await cursor.fetchall()]


async def wait_for_it(flights: Flights, seconds: float = 15.0) -> CachedPrompt | None:
    async with flights.claimed(KEY, seconds) as found:
        return found


async def test_the_second_gets_what_the_first_has_made(cache: EnhancementCache) -> None:
    one, two = Flights(cache), Flights(cache)
    async with one.claimed(KEY, 15) as found:
        assert found is None
        waiting = asyncio.ensure_future(wait_for_it(two))
        async with two.claimed(OTHER, 15) as other:
            assert other is None, "another request does not wait"
        await cache.put(KEY, "default", "chat_enhance", MADE)
    assert await soon(waiting) == MADE
    assert await rows(cache) == []


async def test_where_the_first_made_nothing_the_second_goes_on(cache: EnhancementCache) -> None:
    one, two = Flights(cache), Flights(cache)
    async with one.claimed(KEY, 15):
        waiting = asyncio.ensure_future(wait_for_it(two))
    assert await soon(waiting) is None
    assert await rows(cache) == []


async def test_an_owner_that_died_is_not_waited_for_longer_than_it_held(cache: EnhancementCache) -> None:
    async with cache.pool.connection() as connection:
        await connection.execute(
            "insert into enhancement_flights values (%s, 'dead', now() + make_interval(secs => 0.3))", (KEY,)
        )
    mine = Flights(cache)
    async with mine.claimed(KEY, 15) as found:
        assert found is None
        assert [key for key, by in await rows(cache) if by != "dead"] == [KEY]


async def test_an_owner_at_work_keeps_it_and_a_wait_for_it_is_bounded(cache: EnhancementCache) -> None:
    one, two = Flights(cache, held=0.3), Flights(cache)
    async with one.claimed(KEY, 15):
        before = await rows(cache)
        assert await wait_for_it(two, seconds=0.9) is None, "three times what it held at first"
        assert await rows(cache) == before


async def test_with_the_database_away_nobody_waits(cache: EnhancementCache) -> None:
    async with Flights(cache).claimed(KEY, 15):
        await cache.pool.close()
        assert await soon(wait_for_it(Flights(cache))) is None
