"""/v1/runs: what was sent and answered, by hash; proved by rendering again. A key sees its own runs, an admin all."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from core.db.pool import Pool
from core.errors import NotFound
from core.http.paging import After, Limit, page, unknown_after
from orchestrator.access.dependencies import needs
from orchestrator.access.keys import Key, Keys
from orchestrator.runs.contents import Vault
from orchestrator.runs.record import RunLog


async def find(pool: Pool, log: RunLog, run_id: str, key: Key) -> dict[str, Any]:
    """The record of a run, for whoever may see it. Raises NotFound."""
    await log.written()
    async with pool.connection() as connection:
        row = await (await connection.execute("select * from runs where id = %s", (run_id,))).fetchone()
    if row is None or (row["key_id"] != key.id and "admin" not in key.scopes):
        raise NotFound("There is no such run.", code="run_not_found")
    return row


def router(keys: Keys, pool: Pool, log: RunLog, vault: Vault) -> APIRouter:
    api = APIRouter(prefix="/v1/runs", tags=["runs"])
    any_key = Annotated[Key, Depends(needs(keys))]
    admin_key = Annotated[Key, Depends(needs(keys, "admin"))]

    @api.get("")
    async def listed(_: admin_key, after: After = None, limit: Limit = 100) -> dict[str, Any]:
        """The newest first; `after` is the last id of the page before."""
        await log.written()
        query = (
            "select * from runs where %(after)s::text is null"
            " or (at, id) < (select at, id from runs where id = %(after)s) order by at desc, id desc limit %(limit)s"
        )
        async with pool.connection() as connection:
            there = await connection.execute("select from runs where id = %s", (after,))
            if after is not None and not there.rowcount:
                raise unknown_after(after)
            rows = await (await connection.execute(query, {"after": after, "limit": limit + 1})).fetchall()
        return page(rows, limit)

    @api.get("/{run_id}")
    async def one(run_id: str, key: any_key) -> dict[str, Any]:
        """The record, and the contents where the tenant keeps them."""
        row = await find(pool, log, run_id, key)
        plain = await vault.open(run_id)
        return {"object": "run", **row, "contents": json.loads(plain) if plain else None}

    @api.delete("/{run_id}/contents")
    async def erase(run_id: str, key: any_key) -> dict[str, Any]:
        """Erase what the run was about. The record stays: it holds hashes only."""
        await find(pool, log, run_id, key)
        return {"id": run_id, "erased": bool(await vault.erase_run(run_id))}

    return api
