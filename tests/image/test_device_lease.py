"""An image worker on a device that others use too: its models are there in its turns only."""

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.device.lease import DeviceLease
from image.pipelines.zimage import ZImage
from tests.fakes.chat_worker import chat_worker
from tests.fakes.client import connected, request
from tests.fakes.device_rival import rival
from tests.fakes.wait import answers, eventually, soon
from tests.image.asking import GENERATIONS, get, post, worker
from tests.image.doubles import Wrapped
from tests.llm.test_device_lease import BALLAST, held
from tests.llm.test_residency import pair

pytestmark = pytest.mark.slow  # models come and go, beside other processes

WEIGHTS = 200 << 20
ASKED = {"prompt": "a boat", "seed": 7, "size": "64x64"}


class Heavy(Wrapped):
    """As heavy as a model, in memory that is really held."""

    def __init__(self, inner: ZImage) -> None:
        super().__init__(inner)
        self.weights = bytearray(WEIGHTS)
        self.weights[::4096] = b"\x01" * len(self.weights[::4096])


class Models:
    """Every one that was loaded, and what this process held when another had the device."""

    def __init__(self, pipeline: ZImage) -> None:
        self._pipeline = pipeline
        self.loaded: list[weakref.ref[Heavy]] = []
        self.held: list[int] = []

    def load(self) -> Heavy:
        heavy = Heavy(self._pipeline)
        self.loaded.append(weakref.ref(heavy))
        return heavy

    def look(self) -> None:
        assert [model() for model in self.loaded if model() is not None] == []
        self.held.append(memory())


def memory() -> int:
    return int(psutil.Process().memory_full_info().uss)


@pytest.fixture
def models(pipeline: ZImage) -> Models:
    return Models(pipeline)


@asynccontextmanager
async def sharing(models: Models, folder: Path, **given: Any) -> AsyncIterator[tuple[int, DeviceLease]]:
    own = {"device_lease": folder / "device", "device_lease_seconds": 0.2, **given}
    async with worker(models.load, folder, **own) as port, rival(folder / "device", models.look) as other:
        yield port, other


async def test_its_memory_is_free_in_the_turns_of_others(models: Models, tmp_path: Path) -> None:
    pictures = set()
    async with sharing(models, tmp_path) as (port, other):
        for _ in range(2):
            told = await post(port, GENERATIONS, ASKED)
            pictures.add(told.json()["data"][0]["b64_json"])
            with_model = memory()
            async with other.use():
                assert with_model - models.held[-1] > WEIGHTS // 2
                assert (await get(port, "/readyz")).status == 200, "who asks is served, later"
                assert (await get(port, "/health")).json()["model_loaded"] is False
    assert (len(models.loaded), len(pictures)) == (2, 1), "loaded anew, and the same picture for the same seed"


async def test_calls_wait_for_the_turn_and_none_is_lost(models: Models, tmp_path: Path) -> None:
    async with sharing(models, tmp_path) as (port, other):

        async def works() -> int:
            async with other.use():
                await asyncio.sleep(0.01)
                return 200

        async def draws() -> int:
            return (await post(port, GENERATIONS, ASKED)).status

        for _ in range(2):
            assert await soon(asyncio.gather(*(does() for does in (draws, works) * 3))) == [200] * 6


async def test_a_chat_worker_and_an_image_worker_by_turns(models: Models, tmp_path: Path) -> None:
    """Its engines are processes of their own: neither worker finds the other's memory on the device."""
    found: list[int] = []
    given: dict[str, Any] = {"device_lease": tmp_path / "device", "device_lease_seconds": 0.2}
    (tmp_path / "chat").mkdir()

    def load() -> Heavy:
        found.append(held(tmp_path / "chat"))
        return models.load()

    async with (
        chat_worker(tmp_path / "chat", pair(tmp_path / "chat"), **given) as talks,
        worker(load, tmp_path, **given) as port,
    ):
        for _ in range(2):
            assert (await soon(talks.chat())).status_code == 200
            assert held(tmp_path / "chat") > BALLAST
            assert [model() for model in models.loaded if model() is not None] == []
            assert (await post(port, GENERATIONS, ASKED)).status == 200

        async def says() -> int:
            return (await talks.chat()).status_code

        async def draws() -> int:
            return (await post(port, GENERATIONS, ASKED)).status

        assert await soon(asyncio.gather(*(does() for does in (says, draws) * 4))) == [200] * 8
    assert len(found) >= 3
    assert max(found) < BALLAST, "what Python takes of engines that sleep"


async def test_a_wait_is_bounded_and_a_client_that_leaves_waits_no_more(models: Models, tmp_path: Path) -> None:
    async with sharing(models, tmp_path, device_lease_wait_seconds=0.4, image_queue_max=1) as (port, other):
        async with other.use():
            async with connected(port) as client:
                body = b'{"prompt": "x", "stream": true}'
                await client.send(request(b"POST", GENERATIONS.encode(), [], body))
                await eventually(lambda: other.report()["others"], "one in the line")
                full = await post(port, GENERATIONS, ASKED)
                assert (full.status, full.error["code"]) == (429, "device_busy")
            await eventually(lambda: not other.report()["others"], "nobody in the line")
            late = await post(port, GENERATIONS, ASKED)
            assert (late.status, late.error["code"]) == (503, "device_busy")
            assert int(late.header(b"retry-after") or 0) >= 1

        async def served() -> bool:
            return (await post(port, GENERATIONS, ASKED)).status == 200

        await answers(served)
