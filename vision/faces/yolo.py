"""Ultralytics YOLO with a face model (VISION_DETECTOR=yolo), batched on the device.

Ultralytics is AGPL-3.0, and so are most weights made with it: whoever lets others use a service built on it must offer
them that service's source, or hold Ultralytics' own licence. So it is in no default group (`vision-yolo`), no weights
ship, and it is imported only here, when it is asked for.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vision.faces.base import Box, Face, Landmarks, ModelUnavailable, Point
from vision.pixels import Pixels

MIN_SCORE = 0.5
ALONE = {"YOLO_OFFLINE": "True", "YOLO_AUTOINSTALL": "False"}
"""Otherwise Ultralytics reports its use over the network, and installs what it misses while it runs."""
RIGHT_EYE, LEFT_EYE, NOSE, RIGHT_MOUTH, LEFT_MOUTH = range(5)
"""The five points of YOLO face models, from left to right in the picture: the person's own right comes first."""
USUAL_MARKS = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.5, 0.78))
"""Where eyes, nose and mouth are in the box of a level face: for models that find boxes only."""


class Model(Protocol):
    """What is used of `ultralytics.YOLO`. `names` are the classes by number."""

    @property
    def names(self) -> Mapping[int, str]: ...

    def predict(self, source: Sequence[Any], **options: Any) -> Sequence[Any]: ...


class YoloFace:
    """One model on one device: a call takes the whole batch."""

    def __init__(self, model: Model, name: str, device: str) -> None:
        """Of the classes that the weights know, those of faces count. Raises ModelUnavailable where there is none."""
        self.name = name
        self._classes = [number for number, what in model.names.items() if "face" in what.lower()]
        if not self._classes:
            raise ModelUnavailable(f"The weights {name} know no class of faces: YOLO_WEIGHTS names another model.")
        self._model = model
        self._device = device
        self._turn = threading.Lock()

    def detect(self, images: Sequence[Pixels]) -> list[list[Face]]:
        """See Detector."""
        if not images:
            return []
        blue_first = [np.ascontiguousarray(image[:, :, ::-1]) for image in images]  # as OpenCV reads, so it expects
        with self._turn:
            results = self._model.predict(
                blue_first, conf=MIN_SCORE, classes=self._classes, device=self._device, verbose=False
            )
        return [_faces(result) for result in results]


def load(weights: Path | None, device: str) -> YoloFace:
    """Raises ModelUnavailable."""
    if weights is None or not weights.is_file():
        raise ModelUnavailable("VISION_DETECTOR=yolo needs YOLO_WEIGHTS, the path of a face model's weights.")
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    try:
        from ultralytics import YOLO  # type: ignore[import-not-found]
    except ImportError as exc:
        raise ModelUnavailable(
            f"VISION_DETECTOR=yolo needs the dependency group `vision-yolo`; Ultralytics is AGPL-3.0. ({exc})"
        ) from exc
    return YoloFace(YOLO(str(weights)), weights.stem, device)


def _faces(result: Any) -> list[Face]:
    """One picture's result: boxes as corners in its pixels, scores, and the points where the model has them."""
    corners, scores = _array(result.boxes.xyxy), _array(result.boxes.conf)
    points = _array(result.keypoints.xy) if getattr(result, "keypoints", None) is not None else None
    found = []
    for at in np.argsort(-scores):
        left, top, right, bottom = map(float, corners[at])
        box = Box(left, top, right - left, bottom - top)
        marks = points[at] if points is not None and len(points[at]) == 5 else None
        found.append(Face(box, float(scores[at]), _usual(box) if marks is None else _landmarks(marks)))
    return found


def _landmarks(marks: Any) -> Landmarks:
    at = [Point(float(x), float(y)) for x, y in marks]
    left, right = at[LEFT_MOUTH], at[RIGHT_MOUTH]
    mouth = Point((left.x + right.x) / 2, (left.y + right.y) / 2)
    return Landmarks(at[RIGHT_EYE], at[LEFT_EYE], at[NOSE], mouth)


def _usual(box: Box) -> Landmarks:
    return Landmarks(*(Point(box.x + x * box.width, box.y + y * box.height) for x, y in USUAL_MARKS))


def _array(tensor: Any) -> Any:
    """A tensor of any device, or an array, as an array."""
    return np.asarray(tensor.cpu() if hasattr(tensor, "cpu") else tensor)
