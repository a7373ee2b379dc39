"""/v1/policies: the lists on top of the floor. A version never changes; one is in force for all, one for a tenant."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from core.db.changes import Writer
from core.db.pool import Pool
from core.errors import NotFound
from core.http.paging import MOST, AfterNumber, Limit, page, unknown_after
from orchestrator.access.dependencies import needs
from orchestrator.access.keys import Key, Keys
from orchestrator.policy import floor
from orchestrator.policy.store import put_in_force, save_policy


class NewPolicy(BaseModel):
    """`document` is {hard: [{category, terms, tiers?}], soft: […], constraints}."""

    document: dict[str, Any]
    note: str = Field("", max_length=2000)
    tenant: str | None = None


class InForce(BaseModel):
    """`revision` is the one the caller saw; a 409 where another policy was put in force since."""

    version: int = Field(ge=1)
    revision: int | None = None
    tenant: str | None = None


def router(keys: Keys, pool: Pool) -> APIRouter:
    api = APIRouter(prefix="/v1/policies", tags=["policy"])
    admin_key = Annotated[Key, Depends(needs(keys, "admin"))]

    @api.post("")
    async def create(body: NewPolicy, key: admin_key) -> dict[str, Any]:
        """Keep a version; it is in force only once it is put so."""
        version, created = await save_policy(pool, body.document, Writer(key.id, body.tenant), note=body.note)
        return {"tenant": body.tenant, "version": version, "created": created}

    @api.get("")
    async def listed(
        _: admin_key, tenant: str | None = None, after: AfterNumber = None, limit: Limit = MOST
    ) -> dict[str, Any]:
        """The newest first; `after` is the last version of the page before."""
        query = (
            "select p.tenant, p.version, p.author, p.note, p.sha256, p.created_at, f.version is not null as in_force"
            " from policies p left join policies_in_force f"
            " on f.tenant is not distinct from p.tenant and f.version = p.version"
            " where p.tenant is not distinct from %s and p.version < coalesce(%s, 2147483647)"
            " order by p.version desc limit %s"
        )
        known = "select from policies where tenant is not distinct from %s and version = %s"
        async with pool.connection() as connection:
            if after is not None and not (await connection.execute(known, (tenant, after))).rowcount:
                raise unknown_after(after)
            rows = await (await connection.execute(query, (tenant, after, limit + 1))).fetchall()
        return page(rows, limit, floor=floor.version())

    @api.put("/in-force")
    async def enforce(body: InForce, key: admin_key) -> dict[str, Any]:
        return await put_in_force(pool, body.version, Writer(key.id, body.tenant), revision=body.revision)

    @api.get("/{version}")
    async def one(version: int, _: admin_key, tenant: str | None = None) -> dict[str, Any]:
        query = "select * from policies where tenant is not distinct from %s and version = %s"
        async with pool.connection() as connection:
            row = await (await connection.execute(query, (tenant, version))).fetchone()
        if row is None:
            raise NotFound(f"Policy version {version} does not exist.", code="policy_not_found")
        return row

    return api
