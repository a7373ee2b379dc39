"""What the face detector finds, misses and imagines, and what micro-batching is worth: `python -m bench.vision`.

On the pictures that scikit-image's wheel holds: two portraits, whose faces were told by eye, and its 200 grey crops of
25 px (of Labeled Faces in the Wild), enlarged: 100 that a face fills, 100 of backgrounds; and pictures without a face.
Then the selfie worker as a process, photo by photo and with what waits read together, the two in turn. Times of the
detector are of the CPU. Results go to bench/results/vision.{json,md}.
"""

import argparse
import asyncio
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
from PIL import Image

from bench.harness import Program, machine, own_environment, python, running, save, table
from core.pictures.decode import WORKING_SIDE
from tests.vision.photos import FACELESS, encoded, photo, photo_path
from vision.faces.base import Detector, Face
from vision.faces.blazeface import BlazeFace
from vision.pixels import Pixels

CLIENTS, ROUNDS, REPEATS = 8, 5, 3
CROP_SIDE = 200  # px that the crops are enlarged to
PACKAGES = ("ai-edge-litert", "onnxruntime", "pillow", "numpy")


class Sight(NamedTuple):
    """A face that a person sees: its centre as shares of width and height, its size as a share of the longer side."""

    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Picture:
    """A picture and its faces. `pixels` is what the worker would look at."""

    name: str
    faces: tuple[Sight, ...]
    pixels: Callable[[], Pixels]


PORTRAITS = {"astronaut.png": (Sight(0.44, 0.23, 0.20),), "camera.png": (Sight(0.46, 0.30, 0.15),)}


def groups() -> dict[str, list[Picture]]:
    """By their kind."""

    def working(name: str) -> Pixels:
        small = photo(name)
        small.thumbnail((WORKING_SIDE, WORKING_SIDE))
        return np.asarray(small)

    def enlarged(number: int) -> Pixels:
        grey = Image.fromarray((stored[number] * 255).astype(np.uint8))
        return np.asarray(grey.resize((CROP_SIDE, CROP_SIDE), Image.Resampling.BICUBIC).convert("RGB"))

    stored, whole = np.load(photo_path("lfw_subset.npy")), (Sight(0.5, 0.5, 1.0),)
    crops = [Picture(f"crop {n}", whole if n < 100 else (), lambda n=n: enlarged(n)) for n in range(200)]  # type: ignore[misc]
    return {
        "portraits": [Picture(name, faces, lambda n=name: working(n)) for name, faces in PORTRAITS.items()],  # type: ignore[misc]
        "without a face": [Picture(name, (), lambda n=name: working(n)) for name in FACELESS],  # type: ignore[misc]
        "crops of faces": crops[:100],
        "crops of backgrounds": crops[100:],
    }


@dataclass
class Score:
    """Of one detector on one group of pictures. `milliseconds`: a picture's best of REPEATS, their median."""

    faces: int = 0
    found: int = 0
    false: int = 0
    pictures: int = 0
    milliseconds: float = 0.0
    missed_in: list[str] = field(default_factory=list)
    false_in: list[str] = field(default_factory=list)


def scored(detector: Detector, pictures: Iterable[Picture]) -> Score:
    score, times = Score(), []
    for known in pictures:
        seen = known.pixels()
        [faces] = detector.detect([seen])
        times.append(best_ms(lambda seen=seen: detector.detect([seen])))  # type: ignore[misc]
        height, width = seen.shape[:2]
        hits = matched(faces, known.faces, width, height)
        score.pictures += 1
        score.faces += len(hits)
        score.found += sum(hits)
        score.false += len(faces) - sum(hits)
        if not all(hits):
            score.missed_in.append(known.name)
        if len(faces) > sum(hits):
            score.false_in.append(known.name)
    score.milliseconds = round(statistics.median(times), 1)
    return score


def matched(faces: Sequence[Face], known: Sequence[Sight], width: int, height: int) -> list[bool]:
    """For each known face whether one of the boxes is on it, the largest first; a box counts once."""
    free = list(faces)
    hits = [False] * len(known)
    for index in sorted(range(len(known)), key=lambda one: -known[one].size):
        at = next((face for face in free if _on(face, known[index], width, height)), None)
        if at is not None:
            free.remove(at)
            hits[index] = True
    return hits


def _on(face: Face, sight: Sight, width: int, height: int) -> bool:
    """Whether the box's centre is in the known face, and neither is more than 2.5 times the other's size."""
    x, y = face.box.x + face.box.width / 2, face.box.y + face.box.height / 2
    size = sight.size * max(width, height)
    near = math.dist((x, y), (sight.x * width, sight.y * height)) <= size / 2
    return near and 1 / 2.5 <= max(face.box.width, face.box.height) / size <= 2.5


def best_ms(work: Callable[[], object]) -> float:
    """Of the CPU: what others do on the machine hardly counts."""
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        times.append((time.process_time() - began) * 1e3)
    return min(times)


async def throughput(count: int) -> dict[str, Any]:
    """Photos a second and CPU a photo of `count` photos a round and way, CLIENTS at once; and one over the other."""
    photos = [encoded(photo(name).resize((1600, 1600)), "JPEG", quality=85) for name in PORTRAITS]
    rates: dict[str, list[tuple[float, float]]] = {"photo by photo": [], "batched": []}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-vision-")))
        single, batching = [await stack.enter_async_context(_worker(folder, size)) for size in ("1", "8")]
        for one in (single, batching):
            await _sent(one, photos, 2 * CLIENTS)  # everything has run once
        for _ in range(ROUNDS):
            for one, figures in zip((single, batching), rates.values(), strict=True):
                figures.append(await _sent(one, photos, count))
    pairs = zip(*rates.values(), strict=True)
    gain = statistics.median(batched[0] / single[0] for single, batched in pairs)
    return {"photos_a_second_and_ms_of_cpu": rates, "batched_over_photo_by_photo": round(gain, 2)}


def _worker(folder: Path, batch: str) -> Any:
    env = own_environment(folder, DATA_DIR=str(folder), VISION_BATCH=batch, VISION_QUEUE_MAX="64", ORCHESTRATOR_URL="")
    return running(Program(f"vision-{batch}", python("vision"), folder, env), "/readyz")


async def _sent(worker: Program, photos: Sequence[bytes], count: int) -> tuple[float, float]:
    numbers, began, cpu = iter(range(count)), time.perf_counter(), worker.cpu_seconds()
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(_client(session, worker.url, photos, numbers) for _ in range(CLIENTS)))
    seconds = time.perf_counter() - began
    return round(count / seconds, 1), round((worker.cpu_seconds() - cpu) / count * 1e3, 1)


async def _client(session: aiohttp.ClientSession, url: str, photos: Sequence[bytes], numbers: Iterator[int]) -> None:
    for number in numbers:
        form = aiohttp.FormData()
        form.add_field("image", photos[number % len(photos)], filename="photo")
        async with session.post(f"{url}/v1/profile/analyze", data=form) as answer:
            assert answer.status == 200, await answer.text()


def page(found: dict[str, Any]) -> str:
    rows = [
        (name, s["pictures"], f"{s['found']} of {s['faces']}", s["false"], f"{s['milliseconds']} ms")
        for name, s in found["detector"].items()
    ]
    rates, gain = found["throughput"].values()
    ways = [(way, *(statistics.median(column) for column in zip(*each, strict=True))) for way, each in rates.items()]
    return "\n".join(
        [
            "# The selfie worker\n",
            "`python -m bench.vision`: pictures of scikit-image's wheel; medians.\n",
            *(f"- {name}: {value}" for name, value in found["machine"].items()),
            f"- batched over photo by photo: {gain} times the photos a second",
            "",
            table(("pictures of", "pictures", "faces found", "false", "CPU a picture"), rows),
            table(("way", "photos a second", "ms of CPU a photo"), ways),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.vision", description=__doc__)
    parser.add_argument("--round", type=int, default=80, help="photos in a round; fewer are not kept (%(default)s)")
    count = parser.parse_args().round
    known = groups()
    found: dict[str, Any] = {"machine": machine(*PACKAGES)}
    found["detector"] = {name: asdict(scored(BlazeFace(), pictures)) for name, pictures in known.items()}
    found["throughput"] = asyncio.run(throughput(count))
    print(page(found))
    if count >= parser.get_default("round"):
        save("vision", found, page(found))


if __name__ == "__main__":
    main()
