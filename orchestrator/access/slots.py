"""Requests at once of a key or a tenant, never more than its limit at all orchestrators together.

Each orchestrator holds some of a limit's places in Postgres by a lease and gives them out from memory; it asks for more
when those are taken, and gives back every few seconds what was not needed. Where one dies, its places are free again
when its lease is over. One that cannot reach the database goes on with what it holds until then, and lets nobody more
in after; requests that it still runs are then not counted elsewhere: the one way to be over a limit.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from dataclasses import dataclass, field

from core.db.errors import DATABASE_AWAY
from core.db.pool import Pool
from core.errors import Unavailable
from core.repeat import every
from orchestrator.access.to_its_end import to_its_end

log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
TRIM_SECONDS = 2.0
"""How long one may hold places that it does not need: so long another may be refused though there is room."""
FULL_SECONDS = 0.25
"""After an answer that there is no more, nobody asks for so long: a limit that is overrun asks the database seldom."""
AHEAD = 16  # of a limit, this share is asked for at once


@dataclass
class _Share:
    """What this orchestrator holds of one owner's places until `until`, and how many of them are taken."""

    most: int
    held: int = 0
    running: int = 0
    peak: int = 0  # since it was last trimmed
    until: float = 0.0  # on the monotonic clock
    full_until: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def in_use(self) -> bool:
        return self.held > 0 or self.running > 0 or self.lock.locked()

    def has_room(self, now: float) -> bool:
        return self.running < min(self.held, self.most) and self.until > now

    def take(self) -> bool:
        self.running += 1
        self.peak = max(self.peak, self.running)
        return True


class Slots:
    """The places of all owners, as far as this orchestrator needs them. One for each process."""

    def __init__(self, pool: Pool, *, lease: float = LEASE_SECONDS) -> None:
        self._pool, self._lease = pool, lease
        self._who = secrets.token_hex(8)
        self._shares: dict[str, _Share] = {}

    async def enter(self, owner: str, most: int) -> bool:
        """Take a place; False where all are taken. Raises Unavailable where it must ask and nobody answers."""
        share = self._shares.get(owner)
        if share is not None:
            share.most = most
            if share.has_room(time.monotonic()):
                return share.take()

        def left(entered: bool) -> None:
            if entered:
                self.leave(owner)

        return await to_its_end(self._enter_more(owner, most), left)

    async def _enter_more(self, owner: str, most: int) -> bool:
        share = self._shares.setdefault(owner, _Share(most))
        share.most = most
        async with share.lock:
            await self._more(owner, share)
        return share.has_room(time.monotonic()) and share.take()

    def leave(self, owner: str) -> None:
        self._shares[owner].running -= 1

    async def _more(self, owner: str, share: _Share) -> None:
        now = time.monotonic()
        if share.has_room(now) or now < share.full_until:
            return  # another request asked while this one waited
        wanted = min(share.most, share.running + max(1, share.most // AHEAD))
        try:
            granted = (await self._ask([(owner, wanted, share.most)]))[owner]
        except DATABASE_AWAY as exc:
            raise Unavailable(
                "The requests at once of this key cannot be counted: the database does not answer.",
                code="database_unavailable",
                retry_after=2,
            ) from exc
        share.held, share.until = granted, now + self._lease
        if not share.has_room(now):
            share.full_until = time.monotonic() + FULL_SECONDS

    async def _ask(self, wanted: list[tuple[str, int, int]]) -> dict[str, int]:
        """(owner, places, its limit) of each -> what was granted. In one order everywhere, so none blocks another."""
        owners, places, most = (list(each) for each in zip(*sorted(wanted), strict=True))
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select owner, hold_slots(owner, %s, wanted, most, %s) as granted"
                " from unnest(%s::text[], %s::integer[], %s::integer[]) asked(owner, wanted, most)",
                (self._who, self._lease, owners, places, most),
            )
            return {row["owner"]: row["granted"] for row in await cursor.fetchall()}

    async def keep(self) -> None:
        """Give back what is not needed and renew what is; until cancelled, then give back all."""
        try:
            await every(TRIM_SECONDS, self.trim, failing="places are not renewed, what is held goes on", at_once=False)
        finally:
            await self._give_back()

    async def trim(self) -> None:
        """Hold as many places as were needed at once since the last time. Raises what the database does."""
        now = time.monotonic()
        self._shares = {owner: share for owner, share in self._shares.items() if share.in_use()}
        due = {owner: share for owner, share in self._shares.items() if self._is_due(share, now)}
        wanted = [(owner, share.peak, share.most) for owner, share in due.items()]
        try:
            async with contextlib.AsyncExitStack() as locks:
                for share in due.values():
                    await locks.enter_async_context(share.lock)  # free: nobody waits here
                    share.held = min(share.held, share.peak)
                for owner, granted in (await self._ask(wanted)).items() if due else ():
                    due[owner].held, due[owner].until = granted, now + self._lease
        finally:
            for share in self._shares.values():
                share.peak = share.running

    def _is_due(self, share: _Share, now: float) -> bool:
        """Whether it holds too much, or not for long any more. One that is asking for more is let alone."""
        ends_soon = share.held > 0 and share.until - now < self._lease / 2
        return not share.lock.locked() and (share.peak < share.held or ends_soon)

    async def _give_back(self) -> None:
        try:
            async with self._pool.connection() as connection:
                await connection.execute("delete from slots where orchestrator = %s", (self._who,))
        except DATABASE_AWAY as exc:
            log.warning("places not given back", extra={"reason": exc})
