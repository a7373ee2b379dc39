"""Contents of runs: kept only where a tenant opted in, sealed with AES-256-GCM, for a stated time, erasable."""

from typing import Any

from core.db.pool import Pool, patiently
from core.repeat import every
from orchestrator.operate.seal import Seal

PURGE_SECONDS = 600.0


class Vault:
    """Seals and opens contents. The run's id is bound to the ciphertext: one moved to another run does not open."""

    def __init__(self, pool: Pool, seal: Seal) -> None:
        self._pool = pool
        self._seal = seal

    async def keep(self, connection: Any, run: str, tenant: str, plain: bytes, days: int) -> None:
        """Within the caller's transaction; nothing where the tenant has opted out meanwhile."""
        sealed = self._seal.seal(plain, run)
        await connection.execute(
            "insert into run_contents (run, tenant, sealed, expires_at)"
            " select %s, id, %s, now() + make_interval(days => %s) from tenants where id = %s and store_contents"
            " on conflict (run) do nothing",
            (run, sealed, days, tenant),
        )

    async def open(self, run: str) -> bytes | None:
        """The contents of a run, if they are there and their time is not over."""
        query = "select sealed from run_contents where run = %s and expires_at > now()"
        async with self._pool.connection() as connection:
            row = await (await connection.execute(query, (run,))).fetchone()
        if row is None:
            return None
        return self._seal.open(bytes(row["sealed"]), run)

    async def erase_run(self, run: str) -> int:
        """Erase one run's contents. Its record stays: it holds hashes only."""
        return await self._erase(b"delete from run_contents where run = %s", run)

    async def erase_tenant(self, tenant: str) -> int:
        """The same of all of a tenant's runs: how many there were."""
        return await self._erase(b"delete from run_contents where tenant = %s", tenant)

    async def _erase(self, query: bytes, of: str) -> int:
        async with patiently(self._pool) as connection:
            return (await connection.execute(query, (of,))).rowcount

    async def purge(self) -> None:
        """Erase what is past its time, now and then; until cancelled."""
        await every(PURGE_SECONDS, self._erase_expired, failing="contents are not purged")

    async def _erase_expired(self) -> None:
        async with patiently(self._pool) as connection:
            await connection.execute("delete from run_contents where expires_at <= now()")
