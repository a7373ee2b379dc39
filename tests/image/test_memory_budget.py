"""Bytes held at once: who fits goes in, who does not waits or is refused, and all of it comes back."""

import asyncio

import pytest

from core.errors import Overloaded, PayloadTooLarge
from image.memory_budget import MemoryBudget
from tests.fakes.wait import eventually, soon


def budget(waiting: int = 2, seconds: float = 60) -> MemoryBudget:
    return MemoryBudget(100, waiting=waiting, seconds=seconds)


async def test_who_does_not_fit_waits_in_line_and_nobody_passes() -> None:
    memory = budget()
    first = await memory.take(80)
    large = asyncio.create_task(memory.take(90))
    await eventually(lambda: memory.places.in_line == 1, "the large one's place")
    small = asyncio.create_task(memory.take(20))  # it would fit beside the first
    await eventually(lambda: memory.places.in_line == 2, "the small one's place")
    assert memory.places.taken == 80
    first.keep(10)
    second = await soon(large)
    assert (memory.places.taken, small.done()) == (100, False)
    second.release()
    third = await soon(small)
    assert memory.places.taken == 30
    for one in (first, third, third):  # twice changes nothing
        one.release()
    await eventually(lambda: memory.places.taken == 0, "the bytes' return")


async def test_a_line_that_is_full_refuses_and_what_never_fits_is_told_at_once() -> None:
    memory = budget(waiting=1)
    held = await memory.take(100)
    waiting = asyncio.create_task(memory.take(1))
    await eventually(lambda: memory.places.in_line == 1, "the one place")
    with pytest.raises(Overloaded) as full:
        await memory.take(1)
    assert (full.value.status, full.value.code, full.value.retry_after) == (429, "memory_full", 5)
    with pytest.raises(PayloadTooLarge) as never:
        await memory.take(101, "image")
    assert (never.value.status, never.value.param) == (413, "image")
    held.release()
    (await soon(waiting)).release()


async def test_who_waits_too_long_is_refused_and_who_stands_behind_goes_in() -> None:
    memory = budget(seconds=0.0)
    held = await memory.take(50)
    with pytest.raises(Overloaded):
        await memory.take(60)
    assert (memory.places.in_line, memory.places.taken) == (0, 50)
    patient = budget()
    first = await patient.take(50)
    large = asyncio.create_task(patient.take(60))
    await eventually(lambda: patient.places.in_line == 1, "its place")
    small = asyncio.create_task(patient.take(50))
    await eventually(lambda: patient.places.in_line == 2, "its place")
    large.cancel()  # its client leaves
    await soon(small)
    assert patient.places.taken == 100
    for one in (held, first):
        one.release()


async def test_who_leaves_as_the_turn_comes_gives_it_back() -> None:
    memory = budget()
    first = await memory.take(100)
    leaver = asyncio.create_task(memory.take(100))
    await eventually(lambda: memory.places.in_line == 1, "its place")
    memory.places.give_back(100)  # the turn comes,
    leaver.cancel()  # and in the same breath the client goes
    first.count = 0
    await asyncio.wait([leaver])
    assert (leaver.cancelled(), memory.places.taken, memory.places.in_line) == (True, 0, 0)
