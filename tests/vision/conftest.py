"""The real detector, loaded once, and a real server in front of it."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.serving import serving
from vision.app import create_app
from vision.faces.blazeface import BlazeFace
from vision.settings import VisionSettings


@pytest.fixture(scope="session")
def detector() -> BlazeFace:
    return BlazeFace()


@pytest.fixture(scope="session")
async def worker(detector: BlazeFace) -> AsyncIterator[int]:
    """The port of a worker that serves alone; images up to 2 MiB and 4 megapixels, bodies up to 3 MiB."""
    settings = VisionSettings.load(
        orchestrator_url=None, max_image_bytes=2 << 20, max_image_pixels=4_000_000, max_body_bytes=3 << 20
    )
    async with serving(create_app(settings, detector)) as port:
        yield port
