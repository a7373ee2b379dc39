"""One studio for all tests of this folder; those that kill parts of it come last and leave it whole.

They all run in one process, so that there is one studio, while another runs the tests that start programs of their own
(tests/conftest.py).
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from compose import small_model
from tests.e2e.studio import ROOT, Studio, data_directory, running_studio


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def models() -> Path:
    """The prepared small model; made here on a fresh clone."""
    folder = ROOT / "data" / "models"
    small_model.prepare(folder)
    return folder


@pytest.fixture(scope="session")
async def studio(models: Path) -> AsyncIterator[Studio]:
    with data_directory(models) as data:
        async with running_studio(data) as running:
            yield running
