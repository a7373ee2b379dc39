"""Pictures sent for edits: what they look like when they are drawn from, and the memory that they may hold."""

import asyncio
import gc
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from core.errors import InvalidRequest, Overloaded, PayloadTooLarge
from core.pictures.decode import Limits, Part, Photo, decode
from image.memory_budget import MemoryBudget
from image.pipelines.zimage import ZImage
from image.request import Source
from image.sources import EditFiles, Sources, fitting_size, sources_of
from tests.fakes.wait import eventually, soon
from tests.image.asking import get, gradient, post_form, settings, worker
from tests.image.processes import KEY, free_port, ready, started

SIDE = 64
ONE = 3 * SIDE**2  # bytes of a picture at its largest
FILES = Limits(1 << 22, 64_000_000, 512 << 20, min_side=1, side=SIDE, animated=True)


class Reservation:
    """A decoder that decodes where it is called, once it is let."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.decoded = 0
        self._loop = asyncio.get_running_loop()

    def decode(self, data: bytes | bytearray, part: Part = "colours", param: str = "image") -> Photo:
        asyncio.run_coroutine_threadsafe(self.gate.wait(), self._loop).result()
        self.decoded += 1
        return decode(data, FILES, part, param)

    def close(self) -> None:
        pass


def saved(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def sent(*pictures: bytes, mask: bytes | None = None) -> EditFiles:
    return EditFiles(pictures, mask, 0.5)


def half(photo: Photo) -> tuple[int, int]:
    return SIDE // 2, SIDE // 2


async def test_pictures_count_until_nobody_holds_them_and_who_does_not_fit_waits() -> None:
    decoder, memory = Reservation(), MemoryBudget(7 * ONE, waiting=1, seconds=60)
    sources = Sources(decoder, memory, threads=2, max_side=SIDE)
    file = gradient(SIDE, SIDE)
    first, second, third = (asyncio.create_task(sources.read(sent(file), half)) for _ in range(3))
    await eventually(lambda: memory.places.in_line == 1, "the third's place in line")
    assert (memory.places.taken, decoder.decoded) == (6 * ONE, 0)  # before anything is decoded
    with pytest.raises(Overloaded) as full:
        await sources.read(sent(file), half)
    assert (full.value.status, full.value.code) == (429, "memory_full")
    with pytest.raises(PayloadTooLarge) as never:
        await sources.read(sent(*[file] * 6), half)
    assert (never.value.status, never.value.param) == (413, "image")
    decoder.gate.set()
    held: list[Source] = [await soon(one) for one in (first, second, third)]
    del first, second, third  # tasks keep what they gave
    await eventually(lambda: memory.places.taken == 3 * ONE // 4, "what is drawn from alone")
    held.pop()
    gc.collect()
    await eventually(lambda: memory.places.taken == 2 * ONE // 4, "the bytes of what is gone")
    held.clear()
    gc.collect()
    await eventually(lambda: memory.places.taken == 0, "the rest")
    await sources.close()


async def test_a_client_that_leaves_and_a_file_that_is_none_give_their_memory_back() -> None:
    decoder, memory = Reservation(), MemoryBudget(100 * ONE, waiting=1, seconds=60)
    sources = Sources(decoder, memory, threads=1, max_side=SIDE)
    leaver = asyncio.create_task(sources.read(sent(gradient(SIDE, SIDE)), half))
    await eventually(lambda: memory.places.taken > 0, "its memory")
    leaver.cancel()
    await asyncio.wait([leaver])
    decoder.gate.set()
    await eventually(lambda: memory.places.taken == 0, "its return")
    with pytest.raises(InvalidRequest):
        await sources.read(sent(b"junk"), half)
    await eventually(lambda: memory.places.taken == 0, "its return")
    await sources.close()


SHOWN: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "16-bit grey": (saved(Image.fromarray(np.full((64, 64), 100 * 257, dtype=np.uint16))), (100, 100, 100)),
    "a hidden colour": (saved(Image.new("RGBA", (64, 64), (200, 0, 0, 0))), (255, 255, 255)),
    "half transparent": (saved(Image.new("RGBA", (64, 64), (0, 0, 0, 128))), (127, 127, 127)),
    "an animation": (
        saved(Image.new("RGB", (64, 64), (0, 90, 0)), save_all=True, append_images=[Image.new("RGB", (64, 64))]),
        (0, 90, 0),
    ),
    "avif": (saved(Image.new("RGB", (64, 64), (0, 90, 0)), "AVIF", quality=95), (0, 90, 0)),
}


@pytest.mark.parametrize("name", SHOWN)
async def test_an_edit_starts_from_what_a_viewer_shows(name: str, tmp_path: Path) -> None:
    file, colour = SHOWN[name]
    sources = sources_of(settings(tmp_path))
    source = await soon(sources.read(sent(file), lambda photo: fitting_size(photo, settings(tmp_path).limits)))
    [pixels] = source.pictures
    levels = np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3).astype(int)
    assert np.abs(levels - colour).max() <= 6
    await sources.close()


MASKS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "RGBA": lambda alpha: Image.merge("RGBA", (*[Image.new("L", alpha.size)] * 3, alpha)),
    "LA": lambda alpha: Image.merge("LA", (Image.new("L", alpha.size), alpha)),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", MASKS)
@pytest.mark.parametrize("side", [64, 4 * 64])
async def test_a_masks_transparent_half_is_painted_anew(mode: str, kind: str, side: int, tmp_path: Path) -> None:
    alpha = Image.new("L", (side, side), 255)
    alpha.paste(0, (0, 0, side // 2, side))
    file = saved(MASKS[mode](alpha), kind, lossless=True)
    sources = sources_of(settings(tmp_path, image_max_side=64))
    source = await soon(sources.read(sent(saved(Image.new("RGB", (side, side))), mask=file), half))
    assert source.mask is not None
    anew = np.frombuffer(source.mask, np.uint8).reshape(SIDE // 2, SIDE // 2)
    assert (anew[:, : SIDE // 4] == 255).all()
    assert (anew[:, SIDE // 4 :] == 0).all()
    await sources.close()


async def test_a_worker_without_memory_for_a_picture_says_so(pipeline: ZImage, tmp_path: Path) -> None:
    async with worker(lambda: pipeline, tmp_path, image_sources_mb=1) as port:
        answer = await post_form(port, [("image", gradient(64, 48)), ("prompt", "x")])
        assert (answer.status, answer.error["code"], answer.error["param"]) == (413, "too_much_memory", "image")


async def test_after_an_edit_nothing_is_held(port: int) -> None:
    for parts in ([("image", gradient(64, 48))], [("image", b"junk")]):
        await post_form(port, [*parts, ("prompt", "x"), ("steps", "1")])
    found = b""

    async def until_none() -> None:
        nonlocal found
        while not re.search(rb"^soundstage_image_source_bytes 0\.0$", found, re.MULTILINE):
            gc.collect()
            found = (await get(port, "/metrics")).body

    await soon(until_none())


@pytest.mark.slow
@pytest.mark.skipif(not psutil.LINUX, reason="peak memory is read from /proc")
async def test_eight_edits_of_a_huge_picture_take_little_memory(tmp_path: Path) -> None:
    """49 megapixels each: 147 MB of plain levels, in a file of 300 KB."""
    plain = Image.new("RGB", (7000, 7000), (120, 130, 140))
    file = saved(plain, "JPEG", quality=30)
    port = free_port()
    async with started(tmp_path, port) as process:
        await ready(port)
        before = peaks(process.pid)
        parts: list[tuple[str, str | bytes]] = [("image", file), ("prompt", "x"), ("steps", "1"), ("size", "128x128")]
        answers = await asyncio.gather(*(post_form(port, parts, headers=KEY) for _ in range(8)))
        assert [answer.status for answer in answers] == [200] * 8
        more = peaks(process.pid) - before
        assert more < 1200 << 20


def peaks(pid: int) -> int:
    """The most bytes that a process and each of its decoders ever held, summed."""
    held = 0
    for one in (pid, *(child.pid for child in psutil.Process(pid).children())):
        lines = Path(f"/proc/{one}/status").read_text().splitlines()
        held += next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    return held
