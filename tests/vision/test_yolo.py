"""The YOLO adapter, on results in the shape that Ultralytics gives. Ultralytics itself is not installed."""

import builtins
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vision.photos import ASTRONAUT, photo, pixels
from vision.__main__ import detector
from vision.faces import yolo
from vision.faces.base import Box, ModelUnavailable
from vision.faces.yolo import YoloFace
from vision.settings import VisionSettings


class Tensor:
    """On a device: its values are reached by .cpu() only."""

    def __init__(self, values: Any) -> None:
        self._values = np.array(values, dtype=np.float32)

    def cpu(self) -> Any:
        return self._values


@dataclass
class Boxes:
    xyxy: Tensor
    conf: Tensor


@dataclass
class Keypoints:
    xy: Tensor


@dataclass
class Result:
    boxes: Boxes
    keypoints: Keypoints | None = None


MARKS = [[30, 40], [70, 42], [50, 60], [36, 80], [64, 80]]
SURE = Result(Boxes(Tensor([[10, 20, 90, 100]]), Tensor([0.9])), Keypoints(Tensor([MARKS])))
TWO = Result(Boxes(Tensor([[0, 0, 10, 10], [5, 5, 55, 65]]), Tensor([0.6, 0.8])), None)
NOBODY = Result(Boxes(Tensor(np.zeros((0, 4))), Tensor(np.zeros(0))), Keypoints(Tensor(np.zeros((0, 5, 2)))))


class Model:
    def __init__(self, results: Sequence[Result], *names: str) -> None:
        self.results = results
        self.names = dict(enumerate(names or ("face",)))
        self.calls: list[tuple[list[Any], dict[str, Any]]] = []

    def predict(self, source: Sequence[Any], **options: Any) -> Sequence[Result]:
        self.calls.append((list(source), options))
        return self.results


def test_a_batch_is_one_call_on_the_device_in_opencvs_order_of_colours() -> None:
    model = Model([SURE, NOBODY])
    image = pixels(photo(ASTRONAUT))
    faces = YoloFace(model, "yolo-face", "cuda:0").detect([image, image[:50]])
    [(source, options)] = model.calls
    assert options == {"conf": yolo.MIN_SCORE, "classes": [0], "device": "cuda:0", "verbose": False}
    assert [one.shape for one in source] == [(512, 512, 3), (50, 512, 3)]
    assert np.array_equal(source[0], image[:, :, ::-1])
    assert [len(found) for found in faces] == [1, 0]


def test_boxes_scores_and_points_are_read() -> None:
    [[face]] = YoloFace(Model([SURE]), "yolo-face", "cpu").detect([pixels(photo(ASTRONAUT))])
    assert face.box == Box(10, 20, 80, 80)
    assert face.score == pytest.approx(0.9)
    assert face.landmarks == ((30, 40), (70, 42), (50, 60), (50, 80))


def test_a_model_without_points_gets_those_of_a_level_face_and_the_surest_comes_first() -> None:
    [[first, second]] = YoloFace(Model([TWO]), "yolo-face", "cpu").detect([pixels(photo(ASTRONAUT))])
    assert (first.box, second.box) == (Box(5, 5, 50, 60), Box(0, 0, 10, 10))
    assert first.landmarks.right_eye == pytest.approx((20, 29))


def test_of_the_classes_those_of_faces_count_and_there_must_be_one() -> None:
    model = Model([SURE], "person", "FACE_A", "car", "face")
    YoloFace(model, "many", "cpu").detect([pixels(photo(ASTRONAUT))])
    assert model.calls[0][1]["classes"] == [1, 3]
    with pytest.raises(ModelUnavailable, match="no class of faces"):
        YoloFace(Model([], "person", "car"), "things", "cpu")


def test_no_pictures_are_no_call() -> None:
    model = Model([])
    assert YoloFace(model, "yolo-face", "cpu").detect([]) == []
    assert model.calls == []


def test_it_is_imported_only_when_it_is_asked_for_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "ultralytics" not in sys.modules
    with pytest.raises(ModelUnavailable, match="YOLO_WEIGHTS"):
        detector(VisionSettings.load(vision_detector="yolo"))
    weights = tmp_path / "face.pt"
    weights.touch()
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ultralytics":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in yolo.ALONE:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with pytest.raises(ModelUnavailable, match=r"vision-yolo.*AGPL"):
        detector(VisionSettings.load(vision_detector="yolo", yolo_weights=weights))
    assert {name: os.environ[name] for name in yolo.ALONE} == yolo.ALONE  # it neither phones home nor installs
