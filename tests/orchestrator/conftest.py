"""An orchestrator for each test of its HTTP side, over a database of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.studio import Studio, studio_over


@pytest.fixture
async def studio(migrated_dsn: str, tmp_path: Path) -> AsyncIterator[Studio]:
    async with studio_over(migrated_dsn, tmp_path) as running:
        yield running
