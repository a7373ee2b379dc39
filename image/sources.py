"""Pictures that a caller sends to be edited: decoded in bounded processes, and brought to the sizes that are drawn.

They count against a budget of memory from before they are decoded until nobody holds them any more. Nothing of them
touches a disk, and their metadata goes no further.
"""

import asyncio
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from prometheus_client import Gauge

from core.errors import InvalidRequest
from core.pictures.decode import Limits as FileLimits
from core.pictures.decode import Photo
from core.pictures.processes import Decoder, DecodingProcesses
from image.memory_budget import MemoryBudget
from image.request import SIDE_MULTIPLE, Limits, Pixels, Source
from image.settings import ImageSettings

_OPAQUE_FROM = 128  # opacity: below it the mask asks for new paint
_HELD = Gauge("soundstage_image_source_bytes", "Memory that pictures sent for edits hold.")
_IN_LINE = Gauge("soundstage_image_source_waiting", "Edits that wait until there is memory for their pictures.")

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class EditFiles:
    """An edit's files. `strength` above 0, at most 1: the share of the steps that is taken."""

    pictures: Sequence[bytes]
    mask: bytes | None
    strength: float


class Sources:
    """Reads what callers send. `close` it once all are answered."""

    def __init__(self, decoder: Decoder, memory: MemoryBudget, threads: int, max_side: int) -> None:
        """`max_side`: of the pictures that `decoder` gives, in pixels."""
        self._decoder = decoder
        self._memory = memory
        self._max_side = max_side
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="sources")
        _HELD.set_function(lambda: memory.places.taken)
        _IN_LINE.set_function(lambda: memory.places.in_line)

    async def read(self, sent: EditFiles, size_of: Callable[[Photo], Size]) -> Source:
        """The pictures at the sizes that `size_of` gives. Raises InvalidRequest and Overloaded."""
        held = await self._memory.take(self._most(sent), "image")
        reading = self._threads.submit(self._read, sent, size_of)
        try:
            source = await asyncio.wrap_future(reading)
        except BaseException:
            reading.add_done_callback(lambda _: held.release())  # a client that leaves does not stop the thread
            raise
        weakref.finalize(source, held.release).atexit = False
        held.keep(sum(len(p.rgb) for p in source.pictures) + len(source.mask or b""))
        return source

    def _most(self, sent: EditFiles) -> int:
        """Bytes at the peak: every picture at its largest, the one that is being brought to its size, the mask."""
        whole = self._max_side**2
        return 3 * whole * (len(sent.pictures) + 2) + (0 if sent.mask is None else 2 * whole)

    def _read(self, sent: EditFiles, size_of: Callable[[Photo], Size]) -> Source:
        pictures = []
        for file in sent.pictures:
            photo = self._decoder.decode(file)
            size = size_of(photo)
            pictures.append(_sized(photo, size))
        mask = None if sent.mask is None else self._anew(sent.mask, (photo.width, photo.height), size)
        return Source(tuple(pictures), sent.strength, mask)

    def _anew(self, file: bytes, picture: Size, size: Size) -> bytes:
        """Where the picture is painted anew. Raises InvalidRequest for a mask that does not fit its picture."""
        from PIL import Image

        try:
            mask = self._decoder.decode(file, "opacity", "mask")
        except InvalidRequest as exc:
            if exc.code != "no_transparency":
                raise
            raise _bad_mask("The mask needs transparency: transparent pixels are painted anew.") from exc
        if (mask.width, mask.height) != picture:
            raise _bad_mask("The mask must have the picture's size.")
        alpha = Image.fromarray(mask.pixels).resize(size, Image.Resampling.NEAREST)
        return alpha.point(lambda a: 0 if a >= _OPAQUE_FROM else 255).tobytes()

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        self._decoder.close()


def sources_of(settings: ImageSettings) -> Sources:
    """Processes of their own decode; each starts with the first edit that needs it."""
    side = settings.image_max_side
    files = FileLimits(
        settings.max_body_bytes,
        settings.image_max_source_pixels,
        settings.image_decode_mb << 20,
        min_side=1,
        side=side,
        animated=True,
    )
    count = settings.image_decode_processes
    decoder = DecodingProcesses(files, count, settings.image_decode_seconds, at_once=False)
    memory = MemoryBudget(
        settings.image_sources_mb << 20, waiting=settings.image_sources_waiting, seconds=settings.image_sources_seconds
    )
    return Sources(decoder, memory, count, side)


def fitting_size(photo: Photo, limits: Limits) -> Size:
    """The photo's own size, scaled into the limits and rounded to what the model draws."""
    scale = min(
        1.0, limits.max_side / max(photo.width, photo.height), (limits.max_pixels / (photo.width * photo.height)) ** 0.5
    )
    low, high = -(-limits.min_side // SIDE_MULTIPLE), limits.max_side // SIDE_MULTIPLE
    across, down = (
        min(high, max(low, int(side * scale + SIDE_MULTIPLE / 2) // SIDE_MULTIPLE))
        for side in (photo.width, photo.height)
    )
    while across * down * SIDE_MULTIPLE**2 > limits.max_pixels:
        across, down = (across - 1, down) if across >= down else (across, down - 1)
    return across * SIDE_MULTIPLE, down * SIDE_MULTIPLE


def _sized(photo: Photo, size: Size) -> Pixels:
    from PIL import Image

    image = Image.fromarray(photo.pixels)
    return Pixels.of(image if image.size == size else image.resize(size, Image.Resampling.LANCZOS))


def _bad_mask(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="mask", code="invalid_mask")
