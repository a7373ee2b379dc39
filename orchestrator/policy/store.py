"""The policies in force, from the database: compiled once for each epoch. Unreadable, they allow nothing."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from core.db.changes import Connection, Writer, changing
from core.db.errors import DATABASE_AWAY
from core.db.pool import Pool
from core.errors import Conflict, NotFound, SoundstageError
from core.json.canonical import sha256_of_fields
from orchestrator.policy.decide import Rules, compile_rules

log = logging.getLogger(__name__)

_IN_FORCE = """
select p.tenant, p.version, p.document from policies_in_force f
  join policies p on p.tenant is not distinct from f.tenant and p.version = f.version
 where f.tenant is null or f.tenant = %s order by p.tenant nulls first
"""
DEFAULT: dict[str, Any] = {
    "hard": [],
    "soft": [],
    "constraints": "Everyone shown is an adult and fully clothed; nothing suggestive.",
}


class PolicyUnavailableError(Exception):
    """The policies cannot be read: the check has failed, so the answer is a refusal."""


@dataclass(frozen=True)
class Standing:
    """What a tenant's requests are judged by: the rules in force and the highest tier of the tenant."""

    rules: Rules
    max_tier: int
    store_contents: bool = False
    contents_days: int = 30


class Policies:
    """Looks up a tenant's standing: from memory while the epoch stands, else from the database."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._standing: dict[str, Standing] = {}
        self._by_version: dict[int, Rules] = {}
        self._generation = 0

    def drop(self) -> None:
        self._generation += 1
        self._standing = {}

    async def standing(self, tenant: str) -> Standing:
        """Raises PolicyUnavailableError."""
        found = self._standing.get(tenant)
        if found is None:
            generation = self._generation
            try:
                found = await self._load(tenant)
            except (*DATABASE_AWAY, SoundstageError) as exc:
                log.warning("policies not read; refusing", extra={"tenant": tenant, "reason": exc})
                raise PolicyUnavailableError from exc
            if generation == self._generation:
                self._standing[tenant] = found
        return found

    async def rules_of(self, version: int | None) -> Rules:
        """The rules of the policy version a release names. Raises PolicyUnavailableError."""
        if version is None:
            return Rules()
        if version not in self._by_version:
            try:
                document = await self._document(version)
                self._by_version[version] = await asyncio.to_thread(compile_rules, f"policy@{version}", document)
            except (*DATABASE_AWAY, SoundstageError) as exc:
                raise PolicyUnavailableError from exc
        return self._by_version[version]

    async def _document(self, version: int) -> dict[str, Any]:
        query = "select document from policies where tenant is null and version = %s"
        async with self._pool.connection() as connection:
            row = await (await connection.execute(query, (version,))).fetchone()
        if row is None:
            raise NotFound(f"Policy version {version} does not exist.", code="policy_not_found")
        return dict(row["document"])

    async def _load(self, tenant: str) -> Standing:
        query = "select max_tier, store_contents, contents_days from tenants where id = %s"
        async with self._pool.connection() as connection:
            limits = await (await connection.execute(query, (tenant,))).fetchone()
            rows = await (await connection.execute(_IN_FORCE, (tenant,))).fetchall()
        rules = Rules()
        for row in rows:
            name = f"policy@{row['version']}" if row["tenant"] is None else f"{tenant}/policy@{row['version']}"
            rules = rules + await asyncio.to_thread(compile_rules, name, row["document"])
        if limits is None or not rows:
            raise NotFound("No policy is in force.", code="policy_not_found")
        return Standing(rules, limits["max_tier"], limits["store_contents"], limits["contents_days"])


async def save_policy(pool: Pool, document: dict[str, Any], writer: Writer, *, note: str = "") -> tuple[int, bool]:
    """Keep a policy as a new version: (version, whether it is new). It is not in force before put_in_force."""
    await asyncio.to_thread(compile_rules, "new", document)
    async with changing(pool, writer) as connection:
        return await _save(connection, document, writer, note)


async def _save(connection: Connection, document: dict[str, Any], writer: Writer, note: str) -> tuple[int, bool]:
    await connection.execute("lock table policies in share row exclusive mode")
    digest = sha256_of_fields(document, "document")
    query = "select version from policies where tenant is not distinct from %s and sha256 = %s"
    row = await (await connection.execute(query, (writer.tenant, digest))).fetchone()
    if row is not None:
        return int(row["version"]), False
    query = (
        "insert into policies (tenant, version, document, author, note, sha256)"
        " select %(t)s, coalesce(max(version), 0) + 1, %(d)s, %(a)s, %(n)s, %(h)s from policies"
        " where tenant is not distinct from %(t)s returning version"
    )
    values = {"t": writer.tenant, "d": Jsonb(document), "a": writer.actor, "n": note, "h": digest}
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None
    return int(row["version"]), True


async def put_in_force(pool: Pool, version: int, writer: Writer, *, revision: int | None = None) -> dict[str, Any]:
    """Make a version the one in force. Raises Conflict where `revision` is not the one that stands."""
    query = (
        "insert into policies_in_force (tenant, version) select %(t)s, %(v)s where coalesce(%(r)s, 0) = 0"
        " or exists (select from policies_in_force where tenant is not distinct from %(t)s)"
        " on conflict (tenant) do update set version = excluded.version, revision = policies_in_force.revision + 1,"
        " updated_at = now() where policies_in_force.revision = coalesce(%(r)s, policies_in_force.revision)"
        " returning tenant, version, revision"
    )
    async with changing(pool, writer) as connection:
        values = {"t": writer.tenant, "v": version, "r": revision}
        row = await (await connection.execute(query, values)).fetchone()
    if row is None:
        raise Conflict("Another policy was put in force since.", param="revision", code="policy_moved")
    return row


async def first_policy(pool: Pool) -> None:
    """The policy that ships, where none is in force yet."""
    writer = Writer("soundstage")
    async with changing(pool, writer) as connection:
        await connection.execute("lock table policies_in_force in share row exclusive mode")
        row = await (await connection.execute("select from policies_in_force where tenant is null")).fetchone()
        if row is None:
            version, _ = await _save(connection, DEFAULT, writer, "shipped")
            await connection.execute("insert into policies_in_force (version) values (%s)", (version,))
