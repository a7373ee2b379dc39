"""Enhanced prompts that were made before: in Postgres, so that all orchestrators share them, and bounded.

At more than MOST entries the oldest DROPPED go. A key holds the release (or the caller's own system prompt), so what
another release made is never served. With the database away there is no cache, and no error.
"""

import base64
import logging
from typing import Any, Literal, NamedTuple

from prometheus_client import Counter

from core.db.errors import DATABASE_AWAY, is_refusal
from core.db.pool import Pool
from core.errors import SoundstageError
from core.json.canonical import sha256
from orchestrator.operate.seal import Seal

log = logging.getLogger(__name__)

MOST, DROPPED = 100, 20
LOOKUPS = Counter("soundstage_enhancement_cache_total", "Lookups of enhanced prompts.", ["outcome"])
_LOCK = 0x45_6E_68_61  # any constant of our own


Source = Literal["edge_function", "worker_fallback", "emergency_fallback"]
"""The rung of the ladder (enhancer.py) that a prompt was made on."""


class CachedPrompt(NamedTuple):
    text: str
    source: Source


def key_of(*parts: Any) -> str:
    """Of everything that decides what is made. What the version before kept, which is not sealed, has other keys."""
    return sha256(["sealed", *parts])


class EnhancementCache:
    def __init__(self, pool: Pool, seal: Seal) -> None:
        self.pool, self._seal = pool, seal

    async def get(self, key: str) -> CachedPrompt | None:
        found = await self.peek(key)
        LOOKUPS.labels("hit" if found else "miss").inc()
        return found

    async def peek(self, key: str) -> CachedPrompt | None:
        """As get, and not counted."""
        try:
            async with self.pool.connection() as connection:
                cursor = await connection.execute("select body, source from enhancements where key = %s", (key,))
                row = await cursor.fetchone()
        except DATABASE_AWAY as exc:
            log.warning("enhancement cache not read", extra={"reason": exc})
            row = None
        if row is None:
            return None
        try:
            return CachedPrompt(self._seal.open(base64.b64decode(row["body"]), key).decode(), row["source"])
        except SoundstageError as exc:
            log.warning("enhancement not read", extra={"reason": exc.message})
            return None

    async def put(self, key: str, tenant: str, job_type: str, made: CachedPrompt) -> None:
        sealed = base64.b64encode(self._seal.seal(made.text.encode("utf-8", "replace"), key)).decode()
        try:
            async with self.pool.connection() as connection, connection.transaction():
                await connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
                await connection.execute(
                    "insert into enhancements (key, tenant, job_type, body, source) values (%s, %s, %s, %s, %s)"
                    " on conflict (key) do nothing",
                    (key, tenant, job_type, sealed, made.source),
                )
                await connection.execute(
                    "delete from enhancements where id in (select id from enhancements order by id limit %s)"
                    " and (select count(*) from enhancements) > %s",
                    (DROPPED, MOST),
                )
        except Exception as exc:  # a text that the database refuses, too, is answered and not cached
            if not (is_refusal(exc) or isinstance(exc, DATABASE_AWAY)):
                raise
            log.warning("enhancement not cached", extra={"reason": str(exc)[:300]})

    async def size(self) -> int | None:
        """None where the database does not answer."""
        try:
            async with self.pool.connection() as connection:
                row = await (await connection.execute("select count(*) as size from enhancements")).fetchone()
        except DATABASE_AWAY:
            return None
        return int(row["size"]) if row else 0

    async def clear(self, tenant: str | None) -> int:
        """Forget a tenant's entries, or all; how many those were."""
        query = "delete from enhancements where %(tenant)s::text is null or tenant = %(tenant)s"
        async with self.pool.connection() as connection:
            return (await connection.execute(query, {"tenant": tenant})).rowcount
