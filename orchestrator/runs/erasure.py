"""All that is kept of what a tenant's callers wrote, erased at once: the records that stay hold hashes only."""

from core.db.pool import Pool

_OF_TENANT = {
    "contents": "delete from run_contents where tenant = %s",
    "conversations": "delete from conversations where key_id in (select id from api_keys where tenant = %s)",
    "enhancements": "delete from enhancements where tenant = %s",
    "jobs": "delete from jobs where tenant = %s and ended_at is not null",
    "queue_results": "update queue_jobs set result = null where tenant = %s and ended_at is not null",
}


async def erase_texts(pool: Pool, tenant: str) -> dict[str, int]:
    """How many of each kind were erased. A job that has not ended is erased when it has, and this is asked again."""
    async with pool.connection() as connection, connection.transaction():
        return {
            kind: (await connection.execute(query.encode(), (tenant,))).rowcount for kind, query in _OF_TENANT.items()
        }
