"""Places: so many at once, so many that wait, in order; nothing is lost when somebody leaves."""

import asyncio

import pytest

from core.errors import Overloaded
from core.waiting import Places
from tests.fakes.wait import soon


async def held(places: Places, until: asyncio.Event, order: list[int], number: int) -> None:
    async with places.hold():
        order.append(number)
        await until.wait()


async def test_the_ninth_waits_and_one_more_is_told_when_to_come() -> None:
    places, leave, order = Places(8, waiting=2, seconds=60, code="worker_full"), asyncio.Event(), list[int]()
    tasks = [asyncio.ensure_future(held(places, leave, order, number)) for number in range(10)]
    await asyncio.sleep(0)
    assert (places.taken, places.in_line, order) == (8, 2, list(range(8)))
    with pytest.raises(Overloaded) as caught:
        await held(places, leave, order, 99)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 1
    leave.set()
    await soon(asyncio.gather(*tasks))
    assert (places.taken, places.in_line, order) == (0, 0, list(range(10)))


async def test_who_leaves_while_waiting_takes_no_place() -> None:
    places, leave, order = Places(1, waiting=5, seconds=60, code="worker_full"), asyncio.Event(), list[int]()
    tasks = [asyncio.ensure_future(held(places, leave, order, number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    leave.set()
    await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert (places.taken, order) == (0, [0, 2, 3])


async def test_who_leaves_as_its_place_comes_gives_it_on() -> None:
    places, first, order = Places(1, waiting=5, seconds=60, code="worker_full"), asyncio.Event(), list[int]()
    tasks = [asyncio.ensure_future(held(places, first, order, number)) for number in range(3)]
    await asyncio.sleep(0)
    first.set()
    await asyncio.sleep(0)  # the first has left, the second has been given its place and has not run yet
    tasks[1].cancel()
    await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert places.taken == 0
    assert 2 in order


async def test_a_wait_is_bounded_in_time() -> None:
    places, leave, order = Places(1, waiting=5, seconds=0.01, code="worker_full"), asyncio.Event(), list[int]()
    first = asyncio.ensure_future(held(places, leave, order, 0))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="in time"):
        await soon(held(places, leave, order, 1))
    leave.set()
    await soon(first)
    assert (places.taken, places.in_line) == (0, 0)
