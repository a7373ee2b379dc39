"""Work that is done again and again: now and then until it is cancelled, or for as long as a block runs."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from core.db.errors import DATABASE_AWAY
from core.watchers import end

log = logging.getLogger(__name__)


async def every(
    seconds: float,
    work: Callable[[], Awaitable[object]],
    *,
    failing: str,
    away: tuple[type[Exception], ...] = DATABASE_AWAY,
    at_once: bool = True,
) -> None:
    """Do it, pause so long, and do it again; until cancelled. What is `away` now may be back the next time: until then
    the log says what is `failing`."""
    if not at_once:
        await asyncio.sleep(seconds)
    while True:
        try:
            await work()
        except away as exc:
            log.warning("%s; trying again", failing, extra={"reason": exc})
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """This runs while the block does."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        await end([task])
