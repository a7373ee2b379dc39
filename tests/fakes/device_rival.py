"""Another worker of a shared device, in the test's own process: it uses the device by turns and has nothing on it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from core.device.lease import DeviceLease, Terms
from core.device.line import Line
from tests.fakes.wait import soon


@asynccontextmanager
async def rival(folder: Path, look: Callable[[], object] = lambda: None) -> AsyncIterator[DeviceLease]:
    """`look` is called whenever its turn begins, before anybody uses it."""

    async def take() -> None:
        look()

    async def give() -> None:
        pass

    lease = DeviceLease(Line(folder, "rival"), Terms(idle=0.05, poll=0.01), take, give)
    running = asyncio.ensure_future(lease.run())
    try:
        yield lease
    finally:
        running.cancel()
        await soon(asyncio.wait([running]))
