"""Whose likeness may be used: a selfie's hash with the time of consent, until it is revoked. Never the picture."""

import os
from typing import Any

from core.db.changes import Writer, changing
from core.db.pool import Pool
from core.errors import Forbidden, NotFound
from orchestrator.access.keys import Key


class Likenesses:
    """The table of the same name. A tenant sees its own."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def refuse_revoked(self, key: Key, sha256: str) -> None:
        """Raises Forbidden where the consent for this picture was taken back."""
        query = "select 1 from likenesses where tenant = %s and sha256 = %s and revoked_at is not null"
        async with self._pool.connection() as connection:
            if await (await connection.execute(query, (key.tenant, sha256))).fetchone():
                raise _revoked()

    async def consented(self, key: Key, sha256: str) -> str:
        """The id of the picture's row; the first consent is the one that is kept. Raises Forbidden as above."""
        made = (
            "insert into likenesses (id, tenant, key_id, sha256) values (%s, %s, %s, %s)"
            " on conflict (tenant, sha256) do nothing"
        )
        found = "select id, revoked_at from likenesses where tenant = %s and sha256 = %s"
        async with changing(self._pool, Writer(key.id)) as connection:
            await connection.execute(made, ("lik_" + os.urandom(12).hex(), key.tenant, key.id, sha256))
            row = await (await connection.execute(found, (key.tenant, sha256))).fetchone()
        assert row is not None
        if row["revoked_at"] is not None:
            raise _revoked()
        return str(row["id"])

    async def one(self, key: Key, likeness: str) -> dict[str, Any]:
        """Raises NotFound, for another tenant's too."""
        query = "select id, sha256, tier, consent_at, revoked_at from likenesses where id = %s and tenant = %s"
        async with self._pool.connection() as connection:
            row = await (await connection.execute(query, (likeness, key.tenant))).fetchone()
        if row is None:
            raise NotFound("There is no such likeness.", code="likeness_not_found")
        return {"object": "likeness", **row}

    async def revoke(self, key: Key, likeness: str) -> dict[str, Any]:
        """From now on the picture is refused. Revoking again changes nothing. Raises NotFound."""
        query = "update likenesses set revoked_at = now() where id = %s and tenant = %s and revoked_at is null"
        async with changing(self._pool, Writer(key.id)) as connection:
            await connection.execute(query, (likeness, key.tenant))
        return await self.one(key, likeness)


def _revoked() -> Forbidden:
    return Forbidden("The consent to use this picture was revoked.", code="likeness_revoked", param="image")
