"""The database, its epoch, the seal and the store of pictures: what every room stands on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from core.db.migrate import migrate
from core.db.pool import Pool, make_pool, opened
from core.part import Part
from core.service import Readiness
from orchestrator.operate import blob_routes, blobs
from orchestrator.operate.blobs import Blobs
from orchestrator.operate.epoch import Epoch
from orchestrator.operate.seal import Seal, contents_key
from orchestrator.operate.tracing import Tracing
from orchestrator.settings import OrchestratorSettings

ACCESS_CONNECTIONS = 4
"""Apart from all others: whether a request is let in is never refused because connections are busy with what was."""


READY_SECONDS = 1.5  # for the database to answer whoever asks for /readyz


@dataclass(kw_only=True)
class Operate(Part):
    """`access_pool` answers who may enter; `pool` does all the rest."""

    dsn: str
    pool: Pool
    access_pool: Pool
    epoch: Epoch
    seal: Seal
    blobs: Blobs
    tracing: Tracing | None


def build(settings: OrchestratorSettings, dsn: str, tracing: Tracing | None) -> Operate:
    """Over a migrated or empty database: it is migrated when the part is entered."""
    seconds = settings.database_seconds
    pool = make_pool(dsn, statement_seconds=seconds)
    access_pool = make_pool(dsn, size=ACCESS_CONNECTIONS, statement_seconds=seconds)
    epoch, pictures = Epoch(dsn, pool), blobs.blobs_of(settings)

    async def ready() -> Readiness:
        there = await epoch.read_within(READY_SECONDS)
        return Readiness(there, {"database": there, "epoch_age_s": round(epoch.age, 1)})

    key = contents_key(settings.data_dir.resolve() / "keys" / "contents_key")
    return Operate(
        dsn=dsn,
        pool=pool,
        access_pool=access_pool,
        epoch=epoch,
        seal=Seal(key),
        blobs=pictures,
        tracing=tracing,
        routers=[blob_routes.router(pictures)],
        resources=[_database(dsn, pool, access_pool, tracing)],
        ready=ready,
        watchers={"epoch": epoch.watch, "old pictures": pictures.purge},
    )


@contextlib.asynccontextmanager
async def _database(dsn: str, pool: Pool, access_pool: Pool, tracing: Tracing | None) -> AsyncIterator[None]:
    try:
        await migrate(dsn)
        async with opened(pool), opened(access_pool):
            yield
    finally:
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
