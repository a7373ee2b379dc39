"""API keys: of their secrets only hashes are stored; whose a secret is, is cached for one epoch."""

import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

import psycopg
from starlette.types import Scope as ASGIScope

from core.db.pool import Pool
from core.errors import Forbidden, Unauthenticated, Unavailable
from core.keys import new_key
from orchestrator.access.limits import NO_LIMITS, Limits

Scope = Literal["chat", "images", "pipelines", "admin", "worker"]

CALLER = "caller_key"
"""Where a request's scope keeps whose it is."""

MAX_CACHED = 150_000  # known keys, and as many wrong ones
MISS_SECONDS = 2.0
"""A wrong key is looked up again at most this often, so that guessing does not reach the database."""


@dataclass(frozen=True)
class Key:
    """Who is calling."""

    id: str
    tenant: str
    scopes: frozenset[str]
    max_tier: int
    expires_at: float | None  # seconds since the epoch
    limits: Limits = NO_LIMITS
    tenant_limits: Limits = NO_LIMITS
    aliases: Mapping[str, str] = field(default_factory=dict)  # names that its tenant gives to models

    @cached_property
    def limited(self) -> bool:
        return bool(self.limits) or bool(self.tenant_limits)

    def require(self, scope: Scope) -> None:
        """Raises Forbidden. The admin scope includes every other but worker."""
        if scope not in self.scopes and not ("admin" in self.scopes and scope != "worker"):
            raise Forbidden(f"This key lacks the scope `{scope}`.", code="missing_scope")


def hash_of(secret: str) -> bytes:
    """A key has 256 random bits, so a plain hash of it cannot be searched."""
    return hashlib.sha256(secret.encode()).digest()


_NO_ALIASES: Mapping[str, str] = {}


class Keys:
    """Looks keys up by a secret's hash: from memory while the epoch stands, else from the database."""

    def __init__(self, pool: Pool, max_cached: int = MAX_CACHED) -> None:
        self._pool, self._max_cached = pool, max_cached
        self._found: dict[bytes, Key] = {}
        self._missed: dict[bytes, float] = {}
        self._generation = 0

    def drop(self) -> None:
        self._generation += 1
        self._found.clear()
        self._missed.clear()

    async def caller(self, scope: ASGIScope) -> Key:
        """Whose request this is, looked up once for each. Raises what `authenticate` does."""
        key: Key | None = scope.get(CALLER)
        if key is None:
            key = scope[CALLER] = await self.authenticate(scope["headers"])
            scope["key_id"] = key.id
        return key

    async def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        """The caller of a request, by its bearer token. Raises Unauthenticated, and Unavailable where it is not known
        from memory and the database does not answer."""
        secret = _bearer(headers)
        digest = hashlib.sha256(secret).digest()
        key = self._found.get(digest) or await self._look_up(digest)
        if key.expires_at is not None and key.expires_at <= time.time():
            raise Unauthenticated("This API key has expired.", code="expired_api_key")
        return key

    async def _look_up(self, digest: bytes) -> Key:
        if self._missed.get(digest, 0.0) > time.monotonic():
            raise _unknown()
        generation = self._generation
        row = await self._ask(digest)
        kept: dict[bytes, Any] = self._missed if row is None else self._found
        if len(kept) >= self._max_cached:
            kept.clear()  # who guesses fills only the memory of wrong keys
        if row is None:
            self._missed[digest] = time.monotonic() + MISS_SECONDS
            raise _unknown()
        key = Key(
            id=row["id"],
            tenant=row["tenant"],
            scopes=frozenset(row["scopes"]),
            max_tier=row["max_tier"],
            expires_at=row["expires_at"],
            limits=Limits.model_validate(row["limits"]),
            tenant_limits=Limits.model_validate(row["tenant_limits"]),
            aliases=row["aliases"] or _NO_ALIASES,
        )
        if generation == self._generation:  # else it may have been revoked while the answer was on its way
            self._found[digest] = key
        return key

    async def _ask(self, digest: bytes) -> dict[str, Any] | None:
        query = (
            "select k.id, k.tenant, k.scopes, k.max_tier, case when least(k.expires_at, s.expires_at) <= now() then 0"
            " else extract(epoch from least(k.expires_at, s.expires_at))::float8 end as expires_at,"
            " k.limits, t.limits as tenant_limits,"
            " (select jsonb_object_agg(a.name, a.model order by a.tenant nulls first) from model_aliases a"
            " where a.tenant = k.tenant or a.tenant is null) as aliases"
            " from key_secrets s join api_keys k on k.id = s.key_id join tenants t on t.id = k.tenant"
            " where s.sha256 = %s and k.revoked_at is null"
        )
        try:
            async with self._pool.connection() as connection:
                return await (await connection.execute(query, (digest,))).fetchone()
        except psycopg.OperationalError as exc:
            raise Unavailable("The database does not answer.", code="database_unavailable", retry_after=2) from exc


async def create_key(
    pool: Pool,
    name: str,
    scopes: Sequence[Scope],
    *,
    tenant: str = "default",
    max_tier: int = 1,
    expires_at: datetime | None = None,
    secret: str | None = None,
) -> str:
    """Make a key and return its secret, which is shown this once and kept nowhere. A `secret` that was a key's before,
    rotated away or not, makes none."""
    secret = secret or new_key()
    async with pool.connection() as connection:
        await connection.execute(
            "insert into api_keys (id, tenant, name, sha256, scopes, max_tier, expires_at)"
            " select %(id)s, %(tenant)s, %(name)s, %(sha256)s, %(scopes)s, %(max_tier)s, %(expires_at)s"
            " where not exists (select from key_secrets where sha256 = %(sha256)s) on conflict (sha256) do nothing",
            {
                **{"id": "key_" + secrets.token_hex(8), "tenant": tenant, "name": name, "sha256": hash_of(secret)},
                **{"scopes": list(scopes), "max_tier": max_tier, "expires_at": expires_at},
            },
        )
    return secret


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if name == b"authorization":
            if value[:7].lower() == b"bearer ":
                return value[7:].strip()
            break
    raise Unauthenticated("Send your API key as `Authorization: Bearer …`.", code="missing_api_key")


def _unknown() -> Unauthenticated:
    return Unauthenticated("This API key is not known.", code="invalid_api_key")
