"""What a worker remembers of calls with a key: bounded in number, bytes and age; a key names one call."""

from dataclasses import dataclass

import pytest

from core.errors import Conflict
from core.keyed_calls import Bounds, KeyedCalls
from tests.fakes.wait import eventually


@dataclass
class Answered:
    number: int
    sha256: str = "one"


def name(number: int) -> tuple[str, str]:
    return "tenant", str(number)


def numbers(calls: KeyedCalls[Answered], *wanted: int) -> list[int | None]:
    found = (calls.answered(name(number)) for number in wanted)
    return [call.number if call else None for call in found]


async def test_what_is_kept_is_bounded_in_number_bytes_and_age() -> None:
    few = KeyedCalls[Answered](Bounds(most=2, bytes=100, seconds=60))
    small = KeyedCalls[Answered](Bounds(most=9, bytes=100, seconds=60))
    for number, size in ((1, 40), (2, 40), (3, 10), (4, 101)):
        few.keep(name(number), Answered(number), size)
        small.keep(name(number), Answered(number), size)
    assert (numbers(few, 1, 2, 3, 4), few.bytes) == ([None, 2, 3, None], 50)
    assert (numbers(small, 1, 2, 3, 4), small.bytes) == ([1, 2, 3, None], 90)
    small.keep(name(5), Answered(5), 70)
    assert (numbers(small, 1, 2, 3, 5), small.bytes) == ([None, None, 3, 5], 80)
    brief = KeyedCalls[Answered](Bounds(most=9, bytes=100, seconds=0.0))
    brief.keep(name(1), Answered(1), 40)
    await eventually(lambda: brief.answered(name(1)) is None, "its age")
    assert brief.bytes == 0


async def test_a_running_call_comes_first_and_another_request_is_refused() -> None:
    calls = KeyedCalls[Answered](Bounds(most=2, bytes=100, seconds=60))
    calls.keep(name(1), Answered(1), 10)
    running = calls.running[name(1)] = Answered(2)
    assert calls.find(name(1), "one") is running
    with pytest.raises(Conflict):
        calls.find(name(1), "other")
    calls.end(name(1), Answered(2, "of before"))  # another's end changes nothing of this one
    calls.end(name(1), running)
    found = calls.find(name(1), "one")
    assert found is not None
    assert found.number == 1
    assert calls.find(name(2), "one") is None
