"""Freed memory goes back while requests come, and once after them."""

import asyncio
from collections.abc import Iterator

import pytest

from image import malloc_trim


async def test_it_is_given_back_while_requests_come_and_once_after(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[int] = []
    readings: Iterator[int] = iter([0, 0, 3, 4, 4, 4, 4])
    at = 0

    def taken() -> int:
        nonlocal at
        try:
            at = next(readings)
        except StopIteration:
            raise asyncio.CancelledError from None
        return at

    monkeypatch.setattr(malloc_trim, "give_back", lambda: given_back.append(at))
    with pytest.raises(asyncio.CancelledError):
        await malloc_trim.keep_giving_back(taken, seconds=0)
    assert given_back == [3, 4, 4]


def test_a_c_library_without_the_call_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    malloc_trim.give_back()
    monkeypatch.setattr("image.malloc_trim.ctypes.CDLL", lambda name: object())
    malloc_trim.give_back()
