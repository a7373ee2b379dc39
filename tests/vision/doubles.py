"""Parts of a selfie worker that do as they are told."""

import asyncio
import threading
from collections.abc import Sequence

from core.pictures.decode import Limits, Part, Photo, decode
from tests.fakes.wait import soon
from vision.analysis import FaceModels
from vision.faces.base import Detector, Face
from vision.pixels import Pixels
from vision.reading import Reader
from vision.settings import VisionSettings


class InProcess:
    """Decodes where it is called: no process to start for a test."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def decode(self, data: bytes | bytearray, part: Part = "colours", param: str = "image") -> Photo:
        return decode(data, self._limits, part, param)

    def close(self) -> None:
        pass


def in_process(settings: VisionSettings) -> InProcess:
    return InProcess(Limits(settings.max_image_bytes, settings.max_image_pixels, settings.max_decode_mb << 20))


def eye_of(detector: Detector, reader: Reader | None = None) -> FaceModels:
    return FaceModels(detector, reader)


class GatedDetector:
    """Finds nobody, when it is let. `batches` says how many pictures came together."""

    name = "gated"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.batches: list[int] = []

    def detect(self, images: Sequence[Pixels]) -> list[list[Face]]:
        self.batches.append(len(images))
        self.begun.release()
        self.gate.wait(20)
        return [[] for _ in images]

    async def began(self) -> None:
        await soon(asyncio.to_thread(self.begun.acquire, timeout=90))
