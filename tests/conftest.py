"""Fixtures for every folder's tests."""

import itertools
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import uvloop
from hypothesis import settings
from psycopg import sql
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from core.db.embedded import embedded_postgres
from core.db.migrate import migrate
from tests.fakes.upstream import Upstream, recording_upstream

_numbers = itertools.count(1)
_unused: defaultdict[str, list[str]] = defaultdict(list)  # the databases that a test has left behind, by server

# A busy machine is no failure (no deadline), and one commit has one result: the same examples each time.
# `make fuzz` looks for new ones, and what it finds becomes an @example.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("searching", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """The services run on uvloop: so do their tests."""
    return {"uvloop": uvloop.new_event_loop}


class _Together(LoadScopeScheduling):  # type: ignore[misc]
    """The tests of a file run in one process, one after the other, so that what they share is made once.

    All of those that share a studio do, and all that draw: neither the engines' start nor torch is paid twice.
    xdist's own groups need node ids that pytest 9.2 no longer lets a plugin change.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        own_programs = ("tests/e2e/test_6", "tests/e2e/test_7")
        shared = ("tests/e2e/", "tests/image/")
        return next((at for at in shared if file.startswith(at) and not file.startswith(own_programs)), file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make check` leaves out whatever needs a database."""
    for item in items:
        if "postgres_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Together | None:
    return _Together(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with recording_upstream() as running:
        yield running


@pytest.fixture
def postgres_directory() -> Iterator[Path]:
    """A place for an embedded Postgres, outside pytest's own: started by root the server runs as another user, and
    every start of a pytest closes the directory of all pytests to other users."""
    with TemporaryDirectory(prefix="soundstage-") as directory:
        yield Path(directory, "data")


@pytest.fixture(scope="session")
async def postgres_server() -> AsyncIterator[str]:
    """One embedded Postgres for the session: the DSN of its first database."""
    with TemporaryDirectory(prefix="soundstage-") as directory:
        async with embedded_postgres(Path(directory, "data")) as dsn:
            await _forgetful(dsn)
            yield dsn


async def _forgetful(server: str) -> None:
    """Nothing here outlives the session, so nothing waits for the disk."""
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as connection:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            await connection.execute(sql.SQL("alter system set {} = off").format(sql.Identifier(name)))
        await connection.execute("select pg_reload_conf()")


@pytest.fixture
async def postgres_dsn(postgres_server: str) -> AsyncIterator[str]:
    """A fresh, empty database."""
    async with fresh_database(postgres_server) as dsn:
        yield dsn


@pytest.fixture
async def migrated_dsn(postgres_server: str, _migrated: str) -> AsyncIterator[str]:
    """A fresh database with the project's tables: a copy of one that was migrated once."""
    async with fresh_database(postgres_server, template=_migrated) as dsn:
        yield dsn


@pytest.fixture(scope="session")
async def _migrated(postgres_server: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_server) as dsn:
        await migrate(dsn)
        yield urlsplit(dsn).path[1:]


@asynccontextmanager
async def fresh_database(server: str, template: str = "template0") -> AsyncIterator[str]:
    """It is dropped when the next one is made: at once, Postgres would wait for the connections to it to end."""
    name = f"test_{next(_numbers)}"
    create = sql.SQL("create database {} template {} strategy file_copy").format(
        sql.Identifier(name), sql.Identifier(template)
    )
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as connection:
        while _unused[server]:
            old = sql.Identifier(_unused[server].pop())
            await connection.execute(sql.SQL("drop database {} with (force)").format(old))
        await connection.execute(create)
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        _unused[server].append(name)
