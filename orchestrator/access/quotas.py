"""Limits as they are kept: quotas are taken from Postgres some at a time and given out from memory.

Never more is given out than a limit allows, however many orchestrators there are: what one holds is counted as used. A
request takes what it may need at most, and gives the rest back when its real usage is known.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg

from core.db.pool import Pool
from core.errors import Unavailable
from orchestrator.access.keys import Key
from orchestrator.access.limits import Limits, Measure, Needs, Quota, RateLimited, TooManyAtOnce
from orchestrator.access.slots import Slots
from orchestrator.access.to_its_end import to_its_end

log = logging.getLogger(__name__)


FLUSH_SECONDS = 10.0
AWAY_SECONDS = 1.0


@dataclass
class _QuotaShare:
    """What this orchestrator holds of a quota in the period that ends at `until`, on the monotonic clock."""

    until: float = 0.0
    left: int = 0
    used: int = 0  # by everyone, as far as it is known here
    exhausted: bool = False  # the database has no more
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def give_back(self, amount: int) -> None:
        self.left += amount


class Quotas:
    """What keys and tenants may still ask for. One for each process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._held: dict[tuple[str, Quota], _QuotaShare] = {}
        self.slots = Slots(pool)
        self._seen: dict[str, float] = {}
        self._away_until = 0.0

    async def enter(self, key: Key, needs: Needs) -> "Entry":
        """Take what a request needs at most. Raises RateLimited, TooManyAtOnce, and Unavailable where the quotas that
        are held are used up and the database does not answer."""
        entry = Entry(self, key)
        with contextlib.ExitStack() as undo:
            undo.callback(entry.leave, Needs(0))
            for owner, whose, limits in _owners(key):
                await self._admit(entry, owner, whose, limits)
            await entry.reach(needs)
            undo.pop_all()
        return entry

    async def _admit(self, entry: "Entry", owner: str, whose: str, limits: Limits) -> None:
        if limits.concurrent is None:
            return
        if not await self.slots.enter(owner, limits.concurrent):
            raise TooManyAtOnce(limits.concurrent, whose)
        entry.running.append(owner)

    async def take(self, owner: str, whose: str, quota: Quota, amount: int) -> _QuotaShare:
        """So much of a quota. Raises RateLimited, Unavailable."""
        held = self._held.get((owner, quota))
        if held is not None and held.until > time.monotonic() and held.left >= amount:
            held.left -= amount
            return held
        # What the database gives out meanwhile is held here, whoever has left.
        return await to_its_end(self._take_more(owner, whose, quota, amount), lambda held: held.give_back(amount))

    async def _take_more(self, owner: str, whose: str, quota: Quota, amount: int) -> _QuotaShare:
        held = self._held.setdefault((owner, quota), _QuotaShare())
        async with held.lock:
            await self._more(held, owner, quota, amount)
        if held.left < amount:
            left = max(0, quota.most - held.used + held.left)
            raise RateLimited(quota, whose, left, held.until - time.monotonic())
        held.left -= amount
        return held

    async def _more(self, held: _QuotaShare, owner: str, quota: Quota, amount: int) -> None:
        """Take from the database, unless another request did so while this one waited, or there is no more."""
        now = time.monotonic()
        fresh = held.until > now
        if fresh and (held.left >= amount or held.exhausted):
            return
        wanted = quota.chunk(amount - held.left if fresh else amount)
        row = await self._ask(owner, quota, wanted)
        until = now + row["ends_in"]  # too early by as long as the answer took
        same = fresh and quota.is_one_period(held.until, until)
        held.left = held.left if same else 0
        held.until = max(held.until, until) if same else until
        held.left += row["granted"]
        held.used = row["used_before"] + row["granted"]
        held.exhausted = row["granted"] < wanted

    async def _ask(self, owner: str, quota: Quota, wanted: int) -> dict[str, Any]:
        """Where the database has just not answered, nobody waits for it again: a queue of waits would have no end."""
        if time.monotonic() < self._away_until:
            raise _unread()
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    "select * from take_quota(%s, %s, %s, %s, %s)",
                    (owner, quota.measure, quota.seconds, wanted, quota.most),
                )
                row = await cursor.fetchone()
        except (psycopg.OperationalError, TimeoutError) as exc:
            self._away_until = time.monotonic() + AWAY_SECONDS
            raise _unread() from exc
        assert row is not None
        return row

    def saw(self, key: Key) -> None:
        """It was used; written down with the others every few seconds."""
        self._seen[key.id] = time.time()

    async def keep(self) -> None:
        """Write down when keys were used and forget periods that are over; until cancelled, then give back what is
        held."""
        try:
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                await self._flush()
        finally:
            await self._give_back()

    async def _flush(self) -> None:
        now = time.monotonic()
        self._held = {name: held for name, held in self._held.items() if held.until > now or held.lock.locked()}
        seen, self._seen = self._seen, {}
        if not seen:
            return
        try:
            async with self._pool.connection() as connection:
                await connection.execute(
                    "insert into key_uses (key_id, last_used_at) select k.id, to_timestamp(u.at)"
                    " from unnest(%s::text[], %s::float8[]) u(id, at) join api_keys k on k.id = u.id"
                    " on conflict (key_id) do update set last_used_at = excluded.last_used_at",
                    (list(seen), list(seen.values())),
                )
        except (psycopg.Error, OSError, TimeoutError) as exc:
            log.warning("key uses not written", extra={"reason": exc})

    async def _give_back(self) -> None:
        now = time.monotonic()
        kept = [(*name, held) for name, held in self._held.items() if held.until > now and held.left > 0]
        try:
            await self._flush()
            async with self._pool.connection() as connection:
                for owner, quota, held in kept:
                    await connection.execute(
                        "select return_quota(%s, %s, %s, %s)", (owner, quota.measure, quota.seconds, held.left)
                    )
        except (psycopg.Error, OSError, TimeoutError) as exc:
            log.warning("quotas not given back", extra={"reason": exc})


class Entry:
    """One request under its limits, until it leaves."""

    def __init__(self, quotas: Quotas, key: Key) -> None:
        self._quotas = quotas
        self._key = key
        self._taken: dict[tuple[str, Quota], tuple[_QuotaShare, float, int]] = {}  # with the period's end, and how much
        self.running: list[str] = []
        self._left = False

    async def reach(self, needs: Needs) -> None:
        """Take what is lacking to these needs. Raises RateLimited, Unavailable."""
        for owner, whose, limits in _owners(self._key):
            for quota in limits.quotas():
                _, until, has = self._taken.get((owner, quota), (None, 0.0, 0))
                lacking = needs.of(quota.measure) - has
                if lacking > 0:
                    held = await self._quotas.take(owner, whose, quota, lacking)
                    same = quota.is_one_period(held.until, until)  # what is of one that is over counts for nothing
                    self._taken[owner, quota] = (held, held.until, lacking + has if same else lacking)

    async def check(self, needs: Needs) -> None:
        """Raise what `reach` raises, and hold nothing: who does the work takes it when it begins."""
        looked = Entry(self._quotas, self._key)
        try:
            await looked.reach(needs)
        finally:
            looked.leave(Needs(0))
        for name, (held, until, _) in looked._taken.items():
            self._taken.setdefault(name, (held, until, 0))  # its headers say what is left

    def leave(self, used: Needs) -> None:
        """It has ended, having used so much; what it took beyond that is given back, what it lacked is taken. Once."""
        if self._left:
            return
        self._left = True
        for (_, quota), (held, until, amount) in self._taken.items():
            if quota.is_one_period(held.until, until):  # of a period that is over nothing comes back
                held.left += amount - used.of(quota.measure)
        for owner in self.running:
            self._quotas.slots.leave(owner)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-*` of the tightest limit of each measure."""
        now = time.monotonic()
        tightest: dict[Measure, tuple[int, Quota, _QuotaShare]] = {}
        for (_, quota), (held, _, _) in self._taken.items():
            left = max(0, quota.most - held.used + held.left)
            if quota.measure not in tightest or left < tightest[quota.measure][0]:
                tightest[quota.measure] = (left, quota, held)
        found = []
        for left, quota, held in tightest.values():
            found += quota.headers(left, held.until - now)
        return found


def _owners(key: Key) -> list[tuple[str, str, Limits]]:
    return [("key:" + key.id, "key", key.limits), ("tenant:" + key.tenant, "tenant", key.tenant_limits)]


def _unread() -> Unavailable:
    return Unavailable(
        "The limits of this key cannot be read: the database does not answer.",
        code="database_unavailable",
        retry_after=2,
    )
