"""Names that a tenant, or everyone, gives to models. A tenant's own name goes before everyone's, and both before a
model of that name. They reach requests with the key (keys.py), so they cost a request no look-up."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from core.db.changes import Writer, changing
from core.db.pool import Pool
from core.errors import InvalidRequest, NotFound
from core.http.paging import unknown_after
from core.wire.workers import Name

MAX_ALIASES = 1000  # of one tenant, or of everyone


class AliasTarget(BaseModel):
    """What a name means. Names are not followed twice: `model` is one that a worker serves."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    tenant: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="None: everyone.")


async def list_aliases(
    pool: Pool, tenant: str | None = None, *, after: str | None = None, limit: int
) -> list[dict[str, Any]]:
    """Those of this tenant and those of everyone; of all tenants where none is named. An alias's id is its tenant, a
    slash, and its name. Raises InvalidRequest where `after` is none."""
    of, _, name = (after or "").partition("/")
    query = (
        "select coalesce(tenant, '') || '/' || name as id, tenant, name, model from model_aliases"
        " where (%(tenant)s::text is null or tenant is null or tenant = %(tenant)s)"
        " and (%(after)s::text is null or (coalesce(tenant, ''), name) > (%(of)s, %(name)s))"
        " order by coalesce(tenant, ''), name limit %(limit)s"
    )
    given = {"tenant": tenant, "after": after, "of": of, "name": name, "limit": limit}
    known = "select from model_aliases where coalesce(tenant, '') = %(of)s and name = %(name)s"
    async with pool.connection() as connection:
        if after is not None and not (await connection.execute(known, given)).rowcount:
            raise unknown_after(after)
        return await (await connection.execute(query, given)).fetchall()


async def put(pool: Pool, name: str, target: AliasTarget, writer: Writer) -> dict[str, Any]:
    """Raises InvalidRequest: no name, an unknown tenant, a name for itself, too many."""
    async with changing(pool, writer) as connection:
        cursor = await connection.execute(
            "insert into model_aliases (tenant, name, model) values (%s, %s, %s)"
            " on conflict on constraint one_alias do update set model = excluded.model returning tenant, name, model",
            (target.tenant, name, target.model),
        )
        row = await cursor.fetchone()
        count = "select count(*) as number from model_aliases where tenant is not distinct from %s"
        there = await (await connection.execute(count, (target.tenant,))).fetchone()
        if there is None or there["number"] > MAX_ALIASES:
            raise InvalidRequest(f"At most {MAX_ALIASES} aliases.", code="too_many_aliases")
    assert row is not None
    return row


async def remove(pool: Pool, name: str, tenant: str | None, writer: Writer) -> None:
    """Raises NotFound."""
    async with changing(pool, writer) as connection:
        cursor = await connection.execute(
            "delete from model_aliases where name = %s and tenant is not distinct from %s", (name, tenant)
        )
        if not cursor.rowcount:
            raise NotFound(f"There is no alias `{name[:200]}`.", code="alias_not_found")
