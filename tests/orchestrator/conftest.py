"""An orchestrator for each test of its HTTP side, over a database of its own that holds the recipes that ship."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from core.db.pool import open_pool
from prompts.registry import import_recipes
from prompts.sources import SEED, read_folder
from tests.conftest import fresh_database
from tests.fakes.studio import Studio, studio_over


@pytest.fixture(scope="session")
async def _seeded(postgres_server: str, _migrated: str) -> AsyncIterator[str]:
    """Saving a recipe tries it out, which takes a while: done once, not for each test."""
    async with fresh_database(postgres_server, template=_migrated) as dsn:
        async with open_pool(dsn, size=1) as pool:
            await import_recipes(pool, read_folder(SEED), author="soundstage")
        yield urlsplit(dsn).path[1:]


@pytest.fixture
async def migrated_dsn(postgres_server: str, _seeded: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_server, template=_seeded) as dsn:
        yield dsn


@pytest.fixture
async def studio(migrated_dsn: str, tmp_path: Path) -> AsyncIterator[Studio]:
    async with studio_over(migrated_dsn, tmp_path) as running:
        yield running


@pytest.fixture
def durable_dsn(migrated_dsn: str) -> str:
    return migrated_dsn


@pytest.fixture
async def durable_studio(durable_dsn: str, tmp_path: Path) -> AsyncIterator[Studio]:
    """An orchestrator that keeps its jobs."""
    async with studio_over(
        durable_dsn, tmp_path, durable_jobs=True, jobs_grace_seconds=0.2, stream_grace_seconds=0
    ) as running:
        yield running
