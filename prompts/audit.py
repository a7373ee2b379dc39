"""The audit chain: every change of prompts, labels, policies, keys and tenants; each hash covers the entry before.

The database makes the hashes (core/migrations/0002_registry.sql); here they are computed again, independently.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from core.db.pool import Pool

FIRST = "0" * 64
BATCH = 5_000


@dataclass(frozen=True)
class Verdict:
    """Whether the chain is whole. `head` is its last hash, to be kept elsewhere: a chain cut short shows by it."""

    entries: int
    head: str
    broken_at: int | None = None
    why: str = ""

    @property
    def whole(self) -> bool:
        return self.broken_at is None


async def verify(pool: Pool, head: str | None = None) -> Verdict:
    """Compute every hash again. `head` is a hash kept from before, which must still be in the chain."""
    verdict = Verdict(0, FIRST)
    seen = head is None or head == FIRST
    async with pool.connection() as connection, connection.transaction():
        # One moment's view: entries that are added meanwhile are not half seen.
        await connection.execute("set transaction isolation level repeatable read, read only")
        while True:
            query = "select * from audit where id > %s order by id limit %s"
            rows = await (await connection.execute(query, (verdict.entries, BATCH))).fetchall()
            if not rows:
                break
            seen = seen or any(row["sha256"] == head for row in rows)
            verdict = check(rows, verdict)
            if not verdict.whole:
                return verdict
        kept = await (await connection.execute("select id, sha256 from audit_head")).fetchone()
    if kept is None or (kept["id"], kept["sha256"]) != (verdict.entries, verdict.head):
        return Verdict(verdict.entries, verdict.head, verdict.entries + 1, "the newest entries are missing")
    if not seen:
        return Verdict(verdict.entries, verdict.head, verdict.entries + 1, "the given head is not in the chain")
    return verdict


def check(rows: Iterable[Mapping[str, Any]], after: Verdict) -> Verdict:
    """Follow the chain over these entries, which come after what was found so far."""
    number, head = after.entries, after.head
    for row in rows:
        number += 1
        if row["id"] != number:
            return Verdict(number - 1, head, number, "an entry is missing")
        if row["prev"] != head:
            return Verdict(number - 1, head, number, "it does not follow the entry before")
        if row["sha256"] != entry_sha256(row):
            return Verdict(number - 1, head, number, "its content was changed")
        head = row["sha256"]
    return Verdict(number, head)


def entry_sha256(row: Mapping[str, Any]) -> str:
    at = row["at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    fields = (row["prev"], str(row["id"]), at, row["actor"], row["action"], row["object"], row["detail"])
    return hashlib.sha256("\x1f".join(fields).encode()).hexdigest()
