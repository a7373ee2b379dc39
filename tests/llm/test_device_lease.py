"""A chat worker on a device that others use too: its engines are on it in its turns only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.device.lease import DeviceLease
from tests.fakes.chat_worker import ChatWorker, chat_worker, engine_processes
from tests.fakes.device_rival import rival
from tests.fakes.wait import answers, soon
from tests.llm.test_residency import pair, states

pytestmark = pytest.mark.slow

BALLAST = 150 << 20


def held(checkpoint: Path) -> int:
    return sum(engine.process.memory_info().rss for engine in engine_processes(checkpoint).values())


@asynccontextmanager
async def sharing(
    folder: Path, *, sleep: bool = True, **given: Any
) -> AsyncIterator[tuple[ChatWorker, DeviceLease, list[int]]]:
    """The worker, another of its device, and the bytes that the other finds there whenever it has its turn."""
    found: list[int] = []
    own = {"device_lease": folder / "device", "device_lease_seconds": 0.2, **given}
    async with (
        chat_worker(folder, pair(folder, sleep=sleep), **own) as worker,
        rival(folder / "device", lambda: found.append(held(folder))) as other,
    ):
        yield worker, other, found


@pytest.mark.parametrize("sleep", [True, False], ids=["by sleep", "by stopping"])
async def test_its_memory_is_free_in_the_turns_of_others(tmp_path: Path, sleep: bool) -> None:
    async with sharing(tmp_path, sleep=sleep) as (worker, other, found):
        assert set((await states(worker)).values()) == {"unloaded"}, "ready to serve, and nothing is on the device"
        for _ in range(2 if sleep else 1):
            assert (await soon(worker.chat())).status_code == 200
            assert (await soon(worker.chat(model="plain"))).status_code == 200
            assert held(tmp_path) > 2 * BALLAST
            assert (await worker.get("/memory/status"))["device_lease"]["held"] is True
            async with other.use():
                kept = {"asleep"} if sleep else {"unloaded"}
                assert set((await states(worker)).values()) == kept
                assert found[-1] < BALLAST, "what Python takes of two that sleep"
                assert await worker.ready(), "who asks is served, later"
                assert (await worker.get("/memory/status"))["device_lease"] == {
                    "held": False,
                    "others": 0,
                    "waiting": 0,
                }


async def test_requests_wait_for_the_turn_and_none_is_lost(tmp_path: Path) -> None:
    """Both busy for many turns."""
    async with sharing(tmp_path) as (worker, other, found):

        async def draws() -> int:
            async with other.use():
                assert found[-1] < BALLAST
                await asyncio.sleep(0.01)
                return 200

        async def asks(number: int) -> int:
            return (await worker.chat(model=("small", "plain")[number % 2])).status_code

        async def all_of_it() -> list[int]:
            told: list[int] = []
            for _ in range(3):
                told += await asyncio.gather(*(asks(number) for number in range(6)), *(draws() for _ in range(6)))
            return told

        async with asyncio.timeout(60):
            assert await all_of_it() == [200] * 36


async def test_a_load_is_a_turn_and_a_wait_for_it_is_bounded(tmp_path: Path) -> None:
    async with sharing(tmp_path, device_lease_wait_seconds=0.3, llm_load_waiting=1) as (worker, other, _):
        load = {"which": "instruct"}
        async with other.use():
            first = asyncio.ensure_future(worker.http.post("/memory/load", json=load))

            async def waits() -> bool:
                return bool((await worker.get("/memory/status"))["device_lease"]["waiting"])

            await answers(waits)
            full = await soon(worker.chat())
            assert (full.status_code, full.json()["error"]["code"]) == (429, "device_busy")
            late = await soon(first)
            assert (late.status_code, late.json()["error"]["code"]) == (503, "device_busy")
            assert int(late.headers["retry-after"]) >= 1
        told = (await soon(worker.http.post("/memory/load", json=load))).json()
        assert (told["instruct_loaded"], told["base_loaded"]) == (True, False)
