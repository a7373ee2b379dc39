"""The real detector and the real small models, loaded once, and a real server in front of them."""

from collections.abc import AsyncIterator, Iterator

import pytest

from core.pictures.decode import Limits
from core.pictures.processes import DecodingProcesses
from tests.fakes.serving import serving
from tests.vision.doubles import eye_of, in_process
from vision.app import create_app
from vision.faces.blazeface import BlazeFace
from vision.reading import SmallModels
from vision.settings import VisionSettings


@pytest.fixture(scope="session")
def detector() -> BlazeFace:
    return BlazeFace()


@pytest.fixture(scope="session")
def reader() -> SmallModels:
    return SmallModels()


@pytest.fixture(scope="session")
async def worker(detector: BlazeFace, reader: SmallModels) -> AsyncIterator[int]:
    """The port of a worker that serves alone; images up to 2 MiB and 4 megapixels, bodies up to 3 MiB."""
    settings = VisionSettings.load(
        orchestrator_url=None, max_image_bytes=2 << 20, max_image_pixels=4_000_000, max_body_bytes=3 << 20
    )
    async with serving(create_app(settings, eye_of(detector, reader), in_process(settings))) as port:
        yield port


@pytest.fixture(scope="session")
def decoding() -> Iterator[DecodingProcesses]:
    """One decoding process as in production; up to 16 MB and 25 megapixels, 4 s."""
    processes = DecodingProcesses(Limits(16 << 20, 25_000_000), count=1, seconds=4)
    yield processes
    processes.close()
