"""Numbered SQL migrations, applied in order under an advisory lock: safe when several processes start at once."""

import hashlib
import logging
import re
from importlib.resources import files
from typing import NamedTuple

import psycopg

log = logging.getLogger(__name__)

LOCK = 0x50_75_6E_64  # any constant of our own
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

_TABLE = """
create table if not exists schema_migrations (
    version    text primary key,
    name       text not null,
    sha256     text not null,
    applied_at timestamptz not null default now()
)
"""


class Migration(NamedTuple):
    version: str
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


class MigrationError(RuntimeError):
    """The database was made by other migrations than these: a file was changed after it was applied."""


def bundled() -> list[Migration]:
    """The migrations that ship with this version, in order."""
    found = []
    for file in files("core.migrations").iterdir():
        match = _NAME.fullmatch(file.name)
        if match:
            found.append(Migration(match[1], file.name.removesuffix(".sql"), file.read_text("utf-8")))
    return sorted(found)


async def migrate(dsn: str, migrations: list[Migration] | None = None) -> list[str]:
    """Apply what is missing, all or nothing; return the names applied. Raises MigrationError on a changed file."""
    wanted = bundled() if migrations is None else migrations
    applied = []
    async with await psycopg.AsyncConnection.connect(dsn) as connection, connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
        await connection.execute(_TABLE)
        rows = await (await connection.execute("select version, sha256 from schema_migrations")).fetchall()
        done: dict[str, str] = dict(rows)
        for migration in wanted:
            if migration.version in done:
                if done[migration.version] != migration.sha256:
                    raise MigrationError(f"migration {migration.name} was changed after it was applied")
                continue
            await connection.execute(migration.sql.encode())
            await connection.execute(
                "insert into schema_migrations (version, name, sha256) values (%s, %s, %s)",
                (migration.version, migration.name, migration.sha256),
            )
            applied.append(migration.name)
            log.info("migration applied", extra={"migration": migration.name})
    return applied
