"""Of equal enhancements that are asked for at several orchestrators, one is made; the others wait for the cache.

Who makes it holds the key's row and renews it. An owner that dies does not: another goes on after HELD_SECONDS. With
the database away nobody waits.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator

from core.db.errors import DATABASE_AWAY
from core.repeat import every, meanwhile
from orchestrator.legacy.enhance.cache import CachedPrompt, EnhancementCache

log = logging.getLogger(__name__)

HELD_SECONDS, POLL_SECONDS = 6.0, 0.1

_CLAIM = (
    "insert into enhancement_flights as f (key, held_by, held_until)"
    " values (%(key)s, %(me)s, now() + make_interval(secs => %(held)s))"
    " on conflict (key) do update set held_by = excluded.held_by, held_until = excluded.held_until"
    " where f.held_until < now() or f.held_by = excluded.held_by returning key"
)
_END = "delete from enhancement_flights where (key = %(key)s and held_by = %(me)s) or held_until < now()"


class Flights:
    """One for each process; of equal requests within it only one comes here."""

    def __init__(self, cache: EnhancementCache, held: float = HELD_SECONDS) -> None:
        self._cache, self._held = cache, held
        self._me = secrets.token_hex(8)

    @contextlib.asynccontextmanager
    async def claimed(self, key: str, wait: float) -> AsyncIterator[CachedPrompt | None]:
        """What another has made meanwhile; None where it is to be made here, which nobody else does for as long as the
        block runs. At most `wait` seconds are waited for another."""
        found = await self._wait(key, wait)
        if found is not None:
            yield found
            return
        renewals = every(
            self._held / 3, lambda: self._run(_CLAIM, key), failing="a claim is not renewed", at_once=False
        )
        try:
            async with meanwhile(renewals):
                yield None
        finally:
            await asyncio.shield(self._run(_END, key))

    async def _wait(self, key: str, seconds: float) -> CachedPrompt | None:
        waited = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not await self._run(_CLAIM, key):
                    waited = True
                    await asyncio.sleep(POLL_SECONDS)
                    if (found := await self._cache.peek(key)) is not None:
                        return found
        return await self._cache.peek(key) if waited else None

    async def _run(self, query: str, key: str) -> bool:
        """Whether it found a row; true where there is no database to ask."""
        given = {"key": key, "me": self._me, "held": self._held}
        try:
            async with self._cache.pool.connection() as connection:
                return (await connection.execute(query.encode(), given)).rowcount > 0
        except DATABASE_AWAY as exc:
            log.warning("enhancements are not shared now", extra={"reason": exc})
            return True
