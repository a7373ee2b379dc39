"""What the engines run on: a GPU as its driver's program tells of it, else the host, within the container's bound."""

import os
from pathlib import Path

import psutil
import pytest

from llm import device
from llm.catalogue import Model
from llm.device import GB
from tests.fakes.chat_worker import base, chat_worker, instruct
from tests.fakes.wait import answers, soon

CARD = "NVIDIA Test, 24576, 22000"


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, gpu: str, processes: str = "", then: str = "") -> None:
    """A `nvidia-smi` on the path; what it is asked is kept in `asked`."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {folder}/asked\ncase "$1" in\n--query-gpu*) echo "{gpu}";;\n'
        f'*) echo "{processes}";;\nesac\n{then or "exit 0"}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)


async def test_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, CARD, f"1, 5\n{os.getpid()}, 1024")
    assert await device.memory() == device.Memory("cuda", "NVIDIA Test", 24 * GB, 22000 << 20)
    assert await device.gpu_bytes(os.getpid()) == GB
    assert await device.gpu_bytes(2**22 + 1) is None, "no such process"
    assert "--id" not in (tmp_path / "asked").read_text()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    await device.memory()
    assert (tmp_path / "asked").read_text().splitlines()[-1].endswith("--id=3")


async def test_a_gpu_without_memory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "NVIDIA Test, [N/A], [N/A]", "7, [N/A]")
    found = await device.memory()
    assert (found.kind, found.name) == ("cuda", "NVIDIA Test")
    assert 0 < found.available <= found.total <= psutil.virtual_memory().total


@pytest.mark.parametrize(("gpu", "then"), [("No devices were found", ""), (CARD, "exit 9")])
async def test_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: str, then: str) -> None:
    driver(tmp_path, monkeypatch, gpu, then=then)
    assert (await device.memory()).kind == "cpu"
    assert await device.gpu_bytes(os.getpid()) is None


def test_a_containers_bound(tmp_path: Path) -> None:
    assert device._container(tmp_path) == (None, 0)
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert device._container(tmp_path) == (None, 0)
    (tmp_path / "memory.max").write_text("8000\n")
    assert device._container(tmp_path) == (8000, 2000)


@pytest.mark.slow
async def test_models_on_a_gpu_share_it_by_what_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes six tenths of 24 GB: one at a time. What is told of the card is the driver's word."""
    driver(tmp_path, monkeypatch, CARD)
    given = {"args": ("--gpu-memory-utilization", "0.6", "--enable-sleep-mode")}
    models: list[Model] = [instruct(tmp_path, **given), base(tmp_path, **given)]
    async with chat_worker(tmp_path, models) as worker:
        await answers(worker.ready)
        memory = await worker.get("/memory/status")
        assert {name: memory[name] for name in ("total_vram", "allocated_vram", "available_vram", "device_type")} == {
            "total_vram": 24.0,
            "allocated_vram": 2.516,
            "available_vram": 21.484,
            "device_type": "cuda",
        }
        assert memory["model_device"] == "cuda:0"
        which = "base" if memory["instruct_loaded"] else "instruct"
        refused = await soon(worker.http.post("/memory/load", json={"which": which}))
        assert refused.status_code == 409
        for figure in ("14.40 GB", "7.20 GB of 21.60 GB"):
            assert figure in refused.json()["error"]["message"]
        forced = (await soon(worker.http.post("/memory/load", json={"which": which, "force": True}))).json()
        assert sorted(engine["state"] for engine in forced["engines"].values()) == ["asleep", "ready"]
        info = await worker.get("/model/info")
        assert (info["cuda_available"], info["gpu_name"], info["model_device"]) == (True, "NVIDIA Test", "cuda:0")
