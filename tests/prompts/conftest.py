"""A pool on a fresh database, for the registry's tests."""

from collections.abc import AsyncIterator

import pytest

from core.db.changes import Writer
from core.db.pool import Pool, open_pool


@pytest.fixture
async def pool(migrated_dsn: str) -> AsyncIterator[Pool]:
    async with open_pool(migrated_dsn, size=4) as opened:
        yield opened


@pytest.fixture
def writer() -> Writer:
    return Writer("key_test")
