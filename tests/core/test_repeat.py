"""Work that is done again and again: what is away now is tried the next time, anything else ends it."""

import asyncio

import pytest

from core.errors import Unavailable
from core.repeat import every, meanwhile
from tests.fakes.wait import eventually, soon


class Work:
    """Counts how often it was done; raises what it is given, first the first."""

    def __init__(self, *raises: Exception) -> None:
        self.raises, self.times = list(raises), 0

    async def __call__(self) -> None:
        self.times += 1
        if self.raises:
            raise self.raises.pop(0)


async def test_what_is_away_is_tried_again_and_told(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(OSError("gone"), OSError("gone"))
    async with meanwhile(every(0.001, work, failing="pictures are not purged")):
        await eventually(lambda: work.times > 2, "a third time")
    assert [record.getMessage() for record in caplog.records] == ["pictures are not purged; trying again"] * 2


async def test_any_other_error_ends_it() -> None:
    work = Work(Unavailable("the store"), ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await soon(every(0.001, work, failing="it", away=(Unavailable,)))
    assert work.times == 2


async def test_it_may_begin_with_the_pause() -> None:
    work = Work()
    async with meanwhile(every(60, work, failing="it", at_once=False)):
        await asyncio.sleep(0)
    assert work.times == 0


async def test_it_has_ended_when_the_block_has() -> None:
    ended = asyncio.Event()

    async def hold() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with meanwhile(hold()):
        await asyncio.sleep(0)
    assert ended.is_set()
