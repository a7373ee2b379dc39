"""The real tiny pipeline, built once a run."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from image.pipelines.load import load
from image.pipelines.whole import WholePipeline
from image.pipelines.zimage import ZImage
from image.request import ImageRequest
from image.settings import ImageSettings
from tests.image import tiny_pipelines
from tests.image.asking import worker
from tests.image.reference import Stock
from training import untrained


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)
    return untrained.ensure(tmp_path_factory.mktemp("models") / untrained.MODEL)


@pytest.fixture(scope="session")
def pipeline(checkpoint: Path) -> ZImage:
    import torch

    return ZImage.load(checkpoint, untrained.MODEL, "cpu", torch.float32)


@pytest.fixture(scope="session")
async def port(pipeline: ZImage, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    """A worker that tests share; it keeps nothing of what they ask."""
    async with worker(lambda: pipeline, tmp_path_factory.mktemp("data")) as port:
        yield port


def whole(checkpoint: Path, folder: Path, build: Callable[[Path, Path], Path]) -> WholePipeline:
    import torch

    with torch.enable_grad():  # loading turns it off, for the engine's thread
        loaded = load(build(folder / build.__name__, checkpoint), f"tiny-{build.__name__}", ImageSettings.load())
    assert isinstance(loaded, WholePipeline)
    return loaded


@pytest.fixture(scope="session")
def sdxl(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> WholePipeline:
    return whole(checkpoint, tmp_path_factory.mktemp("models"), tiny_pipelines.sdxl)


@pytest.fixture(scope="session")
def flux(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> WholePipeline:
    return whole(checkpoint, tmp_path_factory.mktemp("models"), tiny_pipelines.flux)


@pytest.fixture(scope="session")
def klein(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> WholePipeline:
    return whole(checkpoint, tmp_path_factory.mktemp("models"), tiny_pipelines.klein)


@pytest.fixture(scope="session")
def stock(checkpoint: Path) -> Stock:
    return Stock(checkpoint)


@pytest.fixture(scope="session")
def mixed() -> list[ImageRequest]:
    """Sizes, prompt lengths, step counts and guidance that differ."""
    text = "a small harbour at dawn, three boats and a lighthouse on the far side of the bay "
    sizes = [(64, 64), (96, 64), (64, 160), (128, 128), (208, 96), (160, 160)]
    return [
        ImageRequest(
            prompt=(text * 3)[: 1 + 17 * i],
            width=sizes[i % len(sizes)][0],
            height=sizes[i % len(sizes)][1],
            steps=1 + (i * 5) % 9,
            seed=100 + i,
            guidance=2.5 if i % 5 == 3 else 0.0,
            negative_prompt="fog" if i % 2 else "",
        )
        for i in range(14)
    ]
