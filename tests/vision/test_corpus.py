"""Hostile and odd files: each has the outcome that it should, in a process that it does not crash, within 200 MB."""

import asyncio
import json
import signal
import sys
from typing import Any

import psutil
import pytest

from core.errors import InvalidRequest
from core.pictures.decode import Limits
from core.pictures.processes import DecodingProcesses
from tests.fakes.wait import eventually
from tests.vision import corpus, heic
from tests.vision.photos import encoded, photo, png

MAX_MB, MAX_CPU_SECONDS = 200, 2


async def outcomes(part: str) -> dict[str, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-m", "tests.vision.corpus", part), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return {found["name"]: found for found in map(json.loads, output.splitlines())}


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("part", ["small", pytest.param("large", marks=pytest.mark.e2e)])
async def test_each_file_is_read_or_refused_within_its_memory(part: str) -> None:
    wanted = {name: code for name, _, code in getattr(corpus, part)()}
    found = await outcomes(part)
    assert {name: one["code"] for name, one in found.items()} == wanted
    assert {name: one["peak_mb"] for name, one in found.items() if one["peak_mb"] > MAX_MB} == {}
    assert {name: one["cpu_seconds"] for name, one in found.items() if one["cpu_seconds"] > MAX_CPU_SECONDS} == {}


def test_there_are_enough_of_them() -> None:
    assert len({name for name, _, _ in corpus.small()}) == len(corpus.small()) >= 40


def children() -> list[psutil.Process]:
    """A selfie worker's: those of an image worker in this process take animations."""
    found = [(process, process.cmdline()) for process in psutil.Process().children()]
    return [p for p, line in found if "core.pictures.child" in line and '"animated": false' in str(line)]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_decoder_that_dies_is_replaced(decoding: DecodingProcesses, number: int) -> None:
    [process] = children()
    process.send_signal(number)
    process.wait(10)
    with pytest.raises(InvalidRequest) as caught:
        decoding.decode(encoded(photo("coffee.png")))
    assert caught.value.code == "unreadable_image"
    assert decoding.decode(heic.QUADRANTS).pixels.shape == (60, 80, 3)


async def test_a_decoder_that_takes_too_long_is_ended(decoding: DecodingProcesses) -> None:
    [process] = children()
    process.send_signal(signal.SIGALRM)  # what its own clock would send
    await eventually(lambda: process.status() == psutil.STATUS_ZOMBIE)
    with pytest.raises(InvalidRequest) as caught:
        decoding.decode(heic.QUADRANTS)
    assert caught.value.code == "image_too_slow"


def test_it_refuses_as_the_function_does(decoding: DecodingProcesses) -> None:
    for name, data, code in corpus.small():
        if code in ("unsupported_image", "image_pixels", "image_too_small"):
            with pytest.raises(InvalidRequest) as caught:
                decoding.decode(data)
            assert (caught.value.code, caught.value.param) == (code, "image"), name


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not bound the address space")
def test_memory_beyond_the_bound_is_refused_by_the_process_itself() -> None:
    """The header's check is made blind, as if a format's price had been set too low."""
    limits = Limits(1 << 20, max_pixels=10**9, max_memory=2000 << 20)
    processes = DecodingProcesses(limits, count=1, seconds=30)
    try:
        [process] = children()[-1:]
        used = process.memory_info().vms
        process.rlimit(psutil.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
        with pytest.raises(InvalidRequest) as caught:
            processes.decode(png(8000, 8000))
        assert caught.value.code in ("image_memory", "unreadable_image")
        assert processes.decode(heic.QUADRANTS).width == 80
    finally:
        processes.close()


def test_decoding_processes_know_no_secret_and_end_with_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAN_WORKER_API_KEY", "secret-4711")
    before = {process.pid for process in children()}
    processes = DecodingProcesses(Limits(1 << 20, 10**6), count=2, seconds=5)
    started = [process for process in children() if process.pid not in before]
    assert len(started) == 2
    assert all("secret-4711" not in process.environ().values() for process in started)
    processes.close()
    assert not any(process.is_running() for process in started)
