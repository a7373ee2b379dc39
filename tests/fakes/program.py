"""A program of a test's own, which never outlives it."""

import asyncio
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def program(*command: str, **given: Any) -> AsyncIterator[Process]:
    """It runs; killed at the end, if it still does. `given` as for asyncio.create_subprocess_exec."""
    process = await asyncio.create_subprocess_exec(*command, **given)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
