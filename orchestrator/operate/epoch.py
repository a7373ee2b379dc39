"""The epoch: one number in the database that moves when keys, prompts or labels change; caches live for one epoch."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

import psycopg

from core.db.connection import listener
from core.db.pool import Pool

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
CHANNEL = "soundstage_epoch"


class Epoch:
    """Watches the number: by LISTEN for near zero delay, by polling in case a notification is lost."""

    def __init__(
        self, dsn: str, pool: Pool, drop: Sequence[Callable[[], None]] = (), poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._dsn, self._pool, self._drop, self._poll_seconds = dsn, pool, list(drop), poll_seconds
        self.value = 0
        self._seen = time.monotonic()
        self._question: asyncio.Future[bool] | None = None

    @property
    def age(self) -> float:
        """Seconds since the number was last read: how old a cached answer can be."""
        return time.monotonic() - self._seen

    def on_move(self, drop: Callable[[], None]) -> None:
        """Call it whenever the number has moved."""
        self._drop.append(drop)

    async def watch(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll())
            tasks.create_task(self._listen())

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
                await self.read()
            await asyncio.sleep(self._poll_seconds)

    async def read(self) -> None:
        asked = time.monotonic()
        async with self._pool.connection() as connection:
            row = await (await connection.execute("select value from epoch")).fetchone()
        assert row is not None
        if row["value"] != self.value:
            self.value = row["value"]
            for drop in self._drop:
                drop()
        self._seen = asked

    async def read_within(self, seconds: float) -> bool:
        """Whether the number can be read now, asked once for all who want to know at the same time. Never longer than
        that: a question to a database that hangs is left to itself, and who comes meanwhile waits for the same one."""
        if self._question is None or self._question.done():
            self._question = asyncio.ensure_future(self._tried())
        await asyncio.wait([self._question], timeout=seconds)
        return self._question.done() and self._question.result()

    async def _tried(self) -> bool:
        try:
            await self.read()
        except (psycopg.Error, OSError, TimeoutError):
            return False
        return True

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
                async with await listener(self._dsn) as connection:
                    await connection.execute(f"listen {CHANNEL}".encode())
                    async for _ in connection.notifies():
                        await self.read()
            await asyncio.sleep(POLL_SECONDS)  # the connection broke: polling goes on meanwhile
