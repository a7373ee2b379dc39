"""The advisory locks of jobs: who lives, and who gives out a pool's places now."""

import hashlib

from psycopg import AsyncConnection
from psycopg.rows import DictRow


def lock_key(kind: str, name: str) -> int:
    """The number of an advisory lock."""
    return int.from_bytes(hashlib.sha256(f"soundstage {kind} {name}".encode()).digest()[:8], "big", signed=True)


async def lock_pool(connection: AsyncConnection[DictRow], pool: str) -> None:
    """Until the transaction ends nobody else gives out the pool's places. A statement of its own: the next one sees
    what was committed meanwhile."""
    await connection.execute("select pg_advisory_xact_lock(%s)", (lock_key("pool", pool),))
