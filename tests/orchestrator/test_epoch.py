"""A change is seen by polling alone and by listening alone: either may fail."""

import asyncio
import contextlib

from core.db.pool import Pool, open_pool
from orchestrator.operate.epoch import POLL_SECONDS, Epoch

NEVER = 3600.0


async def moves(pool: Pool, epoch: Epoch, dropped: asyncio.Event) -> None:
    """Until the caches are dropped for two changes: the first may be seen by the look with which watching begins."""
    watching = asyncio.create_task(epoch.watch())
    try:
        async with asyncio.timeout(60), pool.connection() as connection:
            for _ in range(2):
                dropped.clear()
                while not dropped.is_set():  # again and again, as long as nobody watches yet
                    await connection.execute("update tenants set max_tier = max_tier")
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(dropped.wait(), 0.2)
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def test_by_polling_alone(postgres_server: str, migrated_dsn: str) -> None:
    """It listens in another database, where nothing is said."""
    dropped = asyncio.Event()
    async with open_pool(migrated_dsn, size=2) as pool:
        await moves(pool, Epoch(postgres_server, pool, [dropped.set]), dropped)
    assert POLL_SECONDS < 2  # the promise


async def test_by_listening_alone(migrated_dsn: str) -> None:
    dropped = asyncio.Event()
    async with open_pool(migrated_dsn, size=2) as pool:
        epoch = Epoch(migrated_dsn, pool, [dropped.set], poll_seconds=NEVER)
        await moves(pool, epoch, dropped)
