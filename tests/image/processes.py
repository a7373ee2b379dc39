"""`python -m image` as a process of its own."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from core.http.serving import bind
from tests.fakes.program import program
from tests.image.asking import get

KEY = [(b"authorization", b"Bearer k1")]
START_SECONDS = 120.0  # a process that loads a model, on a machine that others share


def free_port() -> int:
    with bind("127.0.0.1", 0) as sock:
        port: int = sock.getsockname()[1]
    return port


@asynccontextmanager
async def started(data: Path, port: int, **settings: str) -> AsyncIterator[Process]:
    """Killed at the end, if it still runs. Its key is KEY's."""
    own = {
        "PORT": str(port),
        "DATA_DIR": str(data),
        "WAN_WORKER_API_KEY": "k1",
        "IMAGE_DEFAULT_SIZE": "128x128",
        "IMAGE_TOKEN_BUDGET": "4000",
    }
    with (data / "log").open("ab") as log:
        command = (sys.executable, "-m", "image")
        environment = os.environ | own | settings
        async with program(*command, env=environment, stdout=log, stderr=log) as process:
            yield process


async def ready(port: int) -> None:
    """Returns when it can draw."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                if (await get(port, "/readyz")).status == 200:
                    return
            except ConnectionError:
                pass  # it does not listen yet
            await asyncio.sleep(0.1)
