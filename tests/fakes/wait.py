"""Bounded waiting: for what can be awaited, and for what only the operating system knows."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

LIMIT_SECONDS = 90.0  # far above what anything here takes: it ends a test that would hang


async def soon(work: Awaitable[T]) -> T:
    """The result of `work`, or TimeoutError instead of a test that hangs."""
    async with asyncio.timeout(LIMIT_SECONDS):
        return await work


async def eventually(predicate: Callable[[], object], what: str = "the condition") -> None:
    """Poll until true. Only for what cannot be awaited: another process, a file, a port."""
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not predicate():  # noqa: ASYNC110 - nobody here could set an event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} did not come true within {LIMIT_SECONDS:g} s") from None


async def answers(question: Callable[[], Awaitable[object]], what: str = "the answer") -> None:
    """Ask until the answer is true. Only for what another process, or another part of this one, learns in time."""
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not await question():  # noqa: ASYNC110 - nobody here could set an event
                await asyncio.sleep(0.03)
    except TimeoutError:
        raise AssertionError(f"{what} did not come true within {LIMIT_SECONDS:g} s") from None
