"""Memory that was freed, back to the system.

glibc keeps what lies freed between blocks that live. A server whose requests come in every size would so grow for
ever though it holds nothing more; giving whole pages back takes some milliseconds.
"""

import asyncio
import ctypes
from collections.abc import Callable

SECONDS = 5.0


def give_back() -> None:
    """Every free page of every arena. Nothing where the C library has no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def keep_giving_back(count: Callable[[], int], seconds: float = SECONDS) -> None:
    """Until cancelled, while requests come, and once after them. `count`: how many have come so far."""
    seen, busy = count(), False
    while True:
        await asyncio.sleep(seconds)
        now = count()
        if busy or now != seen:
            await asyncio.to_thread(give_back)
        seen, busy = now, now != seen
