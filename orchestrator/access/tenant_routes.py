"""/v1/tenants: how high a tenant's tier is, and whether the contents of its runs are kept."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field

from core.db.changes import Writer, changing
from core.db.pool import Pool
from core.errors import NotFound
from orchestrator.access.dependencies import needs
from orchestrator.access.keys import Key, Keys
from orchestrator.access.limits import Limits

Erase = Callable[[str], Awaitable[Any]]


class TenantChange(BaseModel):
    """What is left out stays as it is. Opting out erases what was kept."""

    model_config = ConfigDict(extra="forbid")

    max_tier: int | None = Field(None, ge=0, le=2)
    store_contents: bool | None = None
    contents_days: int | None = Field(None, ge=1, le=3650)
    limits: Limits | None = Field(None, description="Of all keys of this tenant together.")


def router(keys: Keys, pool: Pool, erase_contents: Erase, erase_texts: Erase) -> APIRouter:
    """`erase_contents`: what runs of a tenant hold; `erase_texts`: all that is kept of its callers' texts. Each
    says how much that was."""
    api = APIRouter(prefix="/v1/tenants", tags=["tenants"])
    admin_key = Annotated[Key, Depends(needs(keys, "admin"))]

    @api.put("/{tenant}")
    async def change(tenant: str, body: TenantChange, key: admin_key) -> dict[str, Any]:
        query = (
            "insert into tenants (id, max_tier, store_contents, contents_days, limits)"
            " values (%(id)s, coalesce(%(max_tier)s, 1), coalesce(%(store_contents)s, false),"
            " coalesce(%(contents_days)s, 30), coalesce(%(limits)s::jsonb, '{}')) on conflict (id) do update set"
            " max_tier = coalesce(%(max_tier)s, tenants.max_tier),"
            " store_contents = coalesce(%(store_contents)s, tenants.store_contents),"
            " contents_days = coalesce(%(contents_days)s, tenants.contents_days),"
            " limits = coalesce(%(limits)s::jsonb, tenants.limits) returning *"
        )
        limits = Jsonb(body.limits.model_dump(exclude_none=True)) if body.limits is not None else None
        async with changing(pool, Writer(key.id)) as connection:
            row = await (
                await connection.execute(query, {"id": tenant, **body.model_dump(), "limits": limits})
            ).fetchone()
        assert row is not None
        erased = 0 if row["store_contents"] else await erase_contents(tenant)
        return {**row, "contents_erased": erased}

    @api.delete("/{tenant}/contents")
    async def erase(tenant: str, _: admin_key) -> dict[str, Any]:
        """Erase what is kept of what this tenant's callers wrote: contents of runs, conversations, enhancements, jobs
        that have ended, results of a queue. Records of runs stay: they hold hashes only."""
        return {"id": tenant, "erased": await erase_texts(tenant)}

    @api.get("/{tenant}")
    async def one(tenant: str, _: admin_key) -> dict[str, Any]:
        async with pool.connection() as connection:
            row = await (await connection.execute("select * from tenants where id = %s", (tenant,))).fetchone()
        if row is None:
            raise NotFound("There is no such tenant.", code="tenant_not_found")
        return row

    return api
