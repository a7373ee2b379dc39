"""`python -m bench.vision`: what the detectors find, miss and imagine; what batching is worth; memory over many photos.

First `python -m bench.vision.gather`. Results go to bench/results/vision.md and vision.json; what is not measured anew
stays. `--yolo-weights` measures Ultralytics in its place: it wants an environment that has the group `vision-yolo`.
"""

import argparse
import asyncio
import io
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from bench.relay import machine
from bench.vision import report, torchvision_stand_in
from bench.vision.detectors import Score, scored
from bench.vision.faults import courses
from bench.vision.gather import FOLDER
from bench.vision.pictures import LICENCES, Pictures, crops
from bench.vision.worker import memory, throughput
from vision.faces import yolo
from vision.faces.base import Detector
from vision.faces.blazeface import BlazeFace
from vision.reading import SmallModels

RESULTS = Path(__file__).parents[1] / "results"
PARTS = ("detectors", "throughput", "memory")
PACKAGES = ("ai-edge-litert", "onnxruntime", "pillow", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.vision", description=__doc__)
    parser.add_argument("--pictures", type=Path, default=FOLDER)
    parser.add_argument("--photos", type=int, default=2000, help="photos for the memory's course")
    parser.add_argument("--round", type=int, default=80, help="photos in a round of the throughput's")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--yolo-weights", type=Path)
    asked = parser.parse_args()
    pictures = Pictures(asked.pictures)
    for name in pictures.missing():
        print(f"missing: {name}")
    found = _yolo(asked.yolo_weights, pictures) if asked.yolo_weights else _measured(asked, pictures)
    file = RESULTS / "vision.json"
    told: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    detectors = told.get("detectors", {}) | found.get("detectors", {})
    told |= found | {"detectors": detectors}
    file.write_text(json.dumps(told, indent=1) + "\n")
    (RESULTS / "vision.md").write_text(report.page(told))
    print(f"written: {file.relative_to(RESULTS.parents[1])} and vision.md")


def _measured(asked: argparse.Namespace, pictures: Pictures) -> dict[str, Any]:
    found: dict[str, Any] = {"machine": machine.facts() | {"packages": _versions()}}
    if "detectors" in asked.parts:
        found |= _default(pictures)
    photos, broken = _uploads(pictures)
    if "throughput" in asked.parts:
        found["throughput"] = asdict(asyncio.run(throughput(photos, asked.round)))
    if "memory" in asked.parts:
        found["memory"] = asdict(asyncio.run(memory(photos, broken, asked.photos)))
    found["machine"]["load after the run"] = machine.load()
    return found


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def _yolo(weights: Path, pictures: Pictures) -> dict[str, Any]:
    torchvision_stand_in.lend()
    name = f"`{weights.name}` by Ultralytics {version('ultralytics')} (AGPL-3.0)"
    return {"detectors": {name: _detector(yolo.load(weights, "cpu"), pictures)}}


def _default(pictures: Pictures) -> dict[str, Any]:
    return {
        "pictures": _told_pictures(pictures),
        "detectors": {"blazeface-full-range, the default (Apache-2.0)": _detector(BlazeFace(), pictures)},
        "readers": _readers(pictures),
        "faults": {name: asdict(course) for name, course in courses(BlazeFace(), pictures.portraits()).items()},
    }


def _told_pictures(pictures: Pictures) -> list[dict[str, Any]]:
    known = [*pictures.portraits(), *pictures.faceless()]
    packages = dict.fromkeys(one.package for one in known)
    return [
        {
            "package": package,
            "licence": LICENCES[package],
            "pictures": sum(one.package == package and bool(one.faces) for one in known),
            "faces": sum(len(one.faces) for one in known if one.package == package),
            "faceless": sum(one.package == package and not one.faces for one in known),
        }
        for package in packages
    ]


def _detector(detector: Detector, pictures: Pictures) -> dict[str, Any]:
    faces, backgrounds = crops()
    photos, faceless = pictures.portraits(), pictures.faceless()
    detector.detect([photos[0].pixels()])  # loads what is loaded late
    scores: dict[str, Score] = {
        "photos": scored(detector, photos),
        "faceless": scored(detector, faceless),
        "crops": scored(detector, faces, repeats=1),
        "backgrounds": scored(detector, backgrounds, repeats=1),
    }
    for name, score in scores.items():
        print(f"{detector.name}, {name}: {score.found}/{score.faces}, {score.false} false, {score.median_ms} ms")
    return {name: asdict(score) | {"median_ms": score.median_ms} for name, score in scores.items()}


def _readers(pictures: Pictures) -> dict[str, float]:
    """Milliseconds a face for age and expression together: alone, and in a batch of eight."""
    detector, models = BlazeFace(), SmallModels()
    seen = []
    for known in pictures.portraits():
        pixels = known.pixels()
        seen += [(pixels, face) for face in detector.detect([pixels])[0]]
    batch = (seen * 8)[:8]

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(9):
            started = time.process_time()
            work()
            times.append(time.process_time() - started)
        return round(min(times) * 1e3, 2)

    alone, together = best(lambda: models.read(batch[:1])), best(lambda: models.read(batch))
    return {"alone_ms": alone, "in_a_batch_of_8_ms": round(together / len(batch), 2)}


def _uploads(pictures: Pictures) -> tuple[list[bytes], list[bytes]]:
    """JPEGs as phones send them, up to 4 megapixels, and others cut off."""
    chance = random.Random(8)
    sound = []
    for path in pictures.files():
        with Image.open(path) as image:
            photo = image.convert("RGB")
        photo.thumbnail((2048, 2048))
        out = io.BytesIO()
        photo.save(out, "JPEG", quality=chance.choice((75, 85, 95)))
        sound.append(out.getvalue())
    return sound, [photo[: len(photo) // 2] for photo in sound]


if __name__ == "__main__":
    main()
