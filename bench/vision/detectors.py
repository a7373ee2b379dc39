"""Recall, false positives and time of a face detector on pictures whose faces are known."""

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.vision.pictures import Known, Sight
from vision.faces.base import Detector, Face

REPEATS = 3
SMALL = 0.06  # of the longer side: below it the default detector promises nothing


@dataclass
class Score:
    """Of one detector on one group of pictures. Faces are counted, and pictures are timed."""

    faces: int = 0
    found: int = 0
    small_faces: int = 0
    small_found: int = 0
    false: int = 0
    pictures: int = 0
    milliseconds: list[float] = field(default_factory=list)
    missed_in: list[str] = field(default_factory=list)
    false_in: list[str] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        return round(statistics.median(self.milliseconds), 1)


def scored(detector: Detector, pictures: Iterable[Known], repeats: int = REPEATS) -> Score:
    """A picture's time is the best of `repeats`."""
    score = Score()
    for known in pictures:
        pixels = known.pixels()
        faces: list[Face] = []
        times = []
        for _ in range(repeats):
            started = time.process_time()  # of the CPU: what others do on the machine hardly counts
            [faces] = detector.detect([pixels])
            times.append((time.process_time() - started) * 1e3)
        score.pictures += 1
        score.milliseconds.append(min(times))
        height, width = pixels.shape[:2]
        _count(score, known.name, matched(faces, known.faces, width, height), known.faces, len(faces))
    return score


def matched(faces: Sequence[Face], known: Sequence[Sight], width: int, height: int) -> list[bool]:
    """For each known face whether one of the boxes is on it, the largest first; a box counts once."""
    free = list(faces)
    hits = [False] * len(known)
    for index in sorted(range(len(known)), key=lambda one: -known[one].size):
        at = next((face for face in free if on(face, known[index], width, height)), None)
        if at is not None:
            free.remove(at)
            hits[index] = True
    return hits


def on(face: Face, sight: Sight, width: int, height: int) -> bool:
    """Whether the box's centre is in the known face, and neither is more than 2.5 times the other's size."""
    x, y = face.box.x + face.box.width / 2, face.box.y + face.box.height / 2
    size = sight.size * max(width, height)
    near = math.dist((x, y), (sight.x * width, sight.y * height)) <= size / 2
    return near and 1 / 2.5 <= max(face.box.width, face.box.height) / size <= 2.5


def _count(score: Score, name: str, hits: Sequence[bool], known: Sequence[Sight], boxes: int) -> None:
    for hit, sight in zip(hits, known, strict=True):
        if sight.size < SMALL:
            score.small_faces += 1
            score.small_found += hit
        else:
            score.faces += 1
            score.found += hit
            if not hit:
                score.missed_in.append(name)
    false = boxes - sum(hits)
    score.false += false
    if false:
        score.false_in.append(name)
