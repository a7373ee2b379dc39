"""/v1/aliases: an admin gives names to models, for one tenant or for everyone."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from core.db.changes import Writer
from core.db.pool import Pool
from core.http.paging import MOST, After, Limit, page
from orchestrator.access import aliases
from orchestrator.access.aliases import AliasTarget
from orchestrator.access.dependencies import needs
from orchestrator.access.keys import Key, Keys


def router(keys: Keys, pool: Pool) -> APIRouter:
    api = APIRouter(prefix="/v1/aliases", tags=["models"])
    admin_key = Annotated[Key, Depends(needs(keys, "admin"))]

    @api.get("")
    async def listed(
        _: admin_key, tenant: str | None = None, after: After = None, limit: Limit = MOST
    ) -> dict[str, Any]:
        """Of everyone, and of this tenant; of all where none is named. `after` is the last id of the page before."""
        return page(await aliases.list_aliases(pool, tenant, after=after, limit=limit + 1), limit)

    @api.put("/{name:path}")
    async def put(name: str, body: AliasTarget, admin: admin_key) -> dict[str, Any]:
        found = await aliases.put(pool, name, body, Writer(admin.id))
        keys.drop()
        return found

    @api.delete("/{name:path}")
    async def remove(name: str, admin: admin_key, tenant: str | None = None) -> dict[str, Any]:
        await aliases.remove(pool, name, tenant, Writer(admin.id))
        keys.drop()
        return {"tenant": tenant, "name": name, "deleted": True}

    return api
