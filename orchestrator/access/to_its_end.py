"""Work that is done to its end, also where its caller leaves meanwhile."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T], undo: Callable[[T], object]) -> T:
    """What the work gives. Where the caller leaves, it is waited for all the same, and `undo` is told what it gave."""
    task = asyncio.ensure_future(work)

    def over(done: "asyncio.Task[T]") -> None:
        if not done.cancelled() and done.exception() is None:
            undo(done.result())

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(over)
        raise
