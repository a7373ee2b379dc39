"""API keys in the database: made, listed, changed, rotated, revoked. A secret is shown once, when it is made."""

import secrets
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field

from core.db.changes import Writer, changing
from core.db.pool import Pool
from core.errors import Conflict, InvalidRequest, NotFound
from core.http.paging import unknown_after
from core.keys import new_key
from core.wire.times import Moment
from orchestrator.access.keys import Scope, hash_of
from orchestrator.access.limits import NO_LIMITS, Limits

MOST_GRACE = 2_592_000  # seconds: 30 days
MOST_SECRETS = 8  # old ones of a key that still work
_SHOWN = (
    "k.id, k.tenant, k.name, k.scopes, k.max_tier, k.age_assured_at, k.limits, k.created_at, k.expires_at,"
    " k.revoked_at, u.last_used_at,"
    " (select max(s.expires_at) from key_secrets s where s.key_id = k.id and s.expires_at > now()) as old_secrets_until"
)
_FROM = " from api_keys k left join key_uses u on u.key_id = k.id"
_LISTED = f"""
select {_SHOWN}{_FROM}
 where (%(tenant)s::text is null or k.tenant = %(tenant)s) and (%(revoked)s or k.revoked_at is null)
   and (%(after)s::text is null
        or (k.created_at, k.id) < (select created_at, id from api_keys where id = %(after)s))
 order by k.created_at desc, k.id desc limit %(most)s
"""  # noqa: S608 - constants only


class NewKey(BaseModel):
    """A key to be made. Tier 2 needs `age_assured`: whoever makes the key says that its holder's age was checked."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    scopes: list[Scope] = Field(min_length=1, max_length=5)
    tenant: str = Field("default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    max_tier: int = Field(1, ge=0, le=2)
    age_assured: bool = False
    expires_at: Moment | None = None
    limits: Limits = NO_LIMITS


class KeyChange(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, min_length=1, max_length=200)
    limits: Limits | None = None
    expires_at: Moment | None = None


class Rotation(BaseModel):
    """How long the old secret still works."""

    model_config = ConfigDict(extra="forbid")

    grace_seconds: int = Field(3600, ge=0, le=MOST_GRACE)


class Nothing(BaseModel):
    """A body in which nothing may stand."""

    model_config = ConfigDict(extra="forbid")


async def make(pool: Pool, wanted: NewKey, writer: Writer) -> dict[str, Any]:
    """The new key with its secret. Raises InvalidRequest: tier 2 without age assurance, an unknown tenant."""
    if wanted.max_tier == 2 and not wanted.age_assured:
        raise InvalidRequest("Tier 2 needs `age_assured`.", param="age_assured", code="age_assurance_needed")
    secret, key_id = new_key(), _new_id()
    async with changing(pool, writer) as connection:
        await connection.execute(
            "insert into api_keys (id, tenant, name, sha256, scopes, max_tier, age_assured_at, expires_at, limits)"
            " values (%(id)s, %(tenant)s, %(name)s, %(sha256)s, %(scopes)s, %(max_tier)s,"
            " case when %(age_assured)s then now() end, %(expires_at)s, %(limits)s)",
            {
                **wanted.model_dump(exclude={"scopes", "limits"}),
                "id": key_id,
                "sha256": hash_of(secret),
                "scopes": sorted(set(wanted.scopes)),
                "limits": Jsonb(wanted.limits.model_dump(exclude_none=True)),
            },
        )
    return {**await one(pool, key_id), "secret": secret}


async def list_keys(
    pool: Pool, tenant: str | None = None, *, revoked: bool = False, after: str | None = None, limit: int
) -> list[dict[str, Any]]:
    """The newest first, without those that are revoked unless they are asked for, from the one `after` on. Raises
    InvalidRequest where that is no key."""
    given = {"tenant": tenant, "revoked": revoked, "after": after, "most": limit}
    async with pool.connection() as connection:
        there = await connection.execute("select from api_keys where id = %s", (after,))
        if after is not None and not there.rowcount:
            raise unknown_after(after)
        return await (await connection.execute(_LISTED.encode(), given)).fetchall()


async def one(pool: Pool, key_id: str) -> dict[str, Any]:
    """Raises NotFound."""
    async with pool.connection() as connection:
        row = await (await connection.execute(f"select {_SHOWN}{_FROM} where k.id = %s", (key_id,))).fetchone()
    if row is None:
        raise NotFound(f"There is no key `{key_id[:100]}`.", code="key_not_found")
    return row


async def change(pool: Pool, key_id: str, wanted: KeyChange, writer: Writer) -> dict[str, Any]:
    """Raises NotFound, and Conflict for a key that is revoked."""
    given = wanted.model_dump(exclude_unset=True)
    limits = Jsonb(wanted.limits.model_dump(exclude_none=True)) if wanted.limits is not None else None
    await _live(pool, key_id)
    async with changing(pool, writer) as connection:
        await connection.execute(
            "update api_keys set name = coalesce(%s, name), limits = coalesce(%s, limits),"
            " expires_at = case when %s then %s else expires_at end where id = %s",
            (wanted.name, limits, "expires_at" in given, wanted.expires_at, key_id),
        )
    return await one(pool, key_id)


async def rotate(pool: Pool, key_id: str, grace: timedelta, writer: Writer) -> dict[str, Any]:
    """The same key with a new secret, which is told; the old ones end after `grace`, or before where they did. Raises
    NotFound, and Conflict for a key that is revoked or over, and for too many secrets at once."""
    await one(pool, key_id)
    secret = new_key()
    async with changing(pool, writer) as connection:
        query = "select revoked_at, coalesce(expires_at <= now(), false) as over from api_keys where id = %s for update"
        row = await (await connection.execute(query, (key_id,))).fetchone()
        if row is None or row["revoked_at"] is not None or row["over"]:
            raise _ended(revoked=row is None or row["revoked_at"] is not None)
        await connection.execute(
            "update key_secrets set expires_at = now() + %s"
            " where key_id = %s and (expires_at is null or expires_at > now() + %s)",
            (grace, key_id, grace),
        )
        query = "select count(*) as live from key_secrets where key_id = %s and expires_at > now()"
        live = await (await connection.execute(query, (key_id,))).fetchone()
        if live is not None and live["live"] > MOST_SECRETS:
            message = f"{MOST_SECRETS} old secrets of this key still work: rotate with less grace."
            raise Conflict(message, code="too_many_secrets", param="grace_seconds")
        await connection.execute("update api_keys set sha256 = %s where id = %s", (hash_of(secret), key_id))
    return {**await one(pool, key_id), "secret": secret}


async def revoke(pool: Pool, key_id: str, writer: Writer) -> dict[str, Any]:
    """At once here, and within two seconds everywhere. Again is no error. Raises NotFound."""
    await one(pool, key_id)
    async with changing(pool, writer) as connection:
        await connection.execute(
            "update api_keys set revoked_at = now() where id = %s and revoked_at is null", (key_id,)
        )
    return await one(pool, key_id)


async def _live(pool: Pool, key_id: str) -> dict[str, Any]:
    found = await one(pool, key_id)
    if found["revoked_at"] is not None:
        raise _ended(revoked=True)
    return found


def _ended(*, revoked: bool) -> Conflict:
    if revoked:
        return Conflict("This key is revoked.", code="key_revoked")
    return Conflict("This key has expired: give it another `expires_at` first.", code="key_expired")


def _new_id() -> str:
    return "key_" + secrets.token_hex(8)
