"""Each score falls as its fault grows, and the joint score with it."""

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from tests.vision.photos import ASTRONAUT, encoded, photo, pixels
from vision import quality
from vision.faces.base import Landmarks, Point
from vision.faces.blazeface import BlazeFace
from vision.pixels import luminance, resample
from vision.quality import Quality

SIDES = st.integers(1, 40)


def judge(detector: BlazeFace, image: Image.Image) -> Quality:
    array = pixels(image)
    return quality.of_face(array, detector.detect([array])[0][0], 1.0)


def blurred(radius: float) -> Image.Image:
    return photo(ASTRONAUT).filter(ImageFilter.GaussianBlur(radius))


def darkened(by: float) -> Image.Image:
    return ImageEnhance.Brightness(photo(ASTRONAUT)).enhance(1 / by)


def shrunk(by: float) -> Image.Image:
    side = round(512 / by)
    return photo(ASTRONAUT).resize((side, side), Image.Resampling.LANCZOS)


def moved(pixel_count: int) -> Image.Image:
    """Sideways motion: the mean of shifted copies."""
    array = pixels(photo(ASTRONAUT)).astype(float)
    return Image.fromarray(np.mean([np.roll(array, i, axis=1) for i in range(pixel_count)], axis=0).astype(np.uint8))


def turned(degrees: float) -> Image.Image:
    return photo(ASTRONAUT).rotate(degrees, Image.Resampling.BICUBIC)


FAULTS: dict[str, tuple[Callable[[float], Image.Image], list[float]]] = {
    "blur": (blurred, [0, 0.7, 1, 1.5, 2, 3, 5]),
    "darkening": (darkened, [1, 1.5, 2, 3, 5, 8]),
    "downscaling": (shrunk, [1, 1.5, 2, 3, 4, 6]),
    "rotation": (turned, [0, 15, 30, 45, 60]),
    "rotation the other way": (lambda degrees: turned(-degrees), [0, 15, 30, 45, 60]),
    "motion": (lambda count: moved(round(count)), [1, 3, 5, 9]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_score_falls_as_the_fault_grows(detector: BlazeFace, fault: str) -> None:
    make, amounts = FAULTS[fault]
    scores = [judge(detector, make(amount)).quality_score for amount in amounts]
    assert all(b <= a + 0.01 for a, b in itertools.pairwise(scores)), scores
    assert scores[-1] < (0.9 if "rotation" in fault else 0.75) * scores[0], scores


@pytest.mark.parametrize(("make", "part"), [(blurred, "sharpness"), (darkened, "exposure"), (shrunk, "size")])
def test_a_fault_lowers_its_own_part(detector: BlazeFace, make: Callable[[float], Image.Image], part: str) -> None:
    assert getattr(judge(detector, make(4)), part) < 0.8 * getattr(judge(detector, make(1)), part)


RANGES: dict[str, tuple[Callable[[float], Image.Image], float, float]] = {
    "blur": (blurred, 0, 5),
    "darkening": (darkened, 1, 8),
    "downscaling": (shrunk, 1, 6),
    "rotation": (turned, 0, 50),
}


@pytest.mark.parametrize("fault", RANGES)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_more_of_a_fault_never_scores_better(detector: BlazeFace, fault: str, data: st.DataObject) -> None:
    """For any two amounts, and the photo as it is or mirrored."""
    make, least, most = RANGES[fault]
    one, other = sorted((data.draw(st.floats(least, most)), data.draw(st.floats(least, most))))
    mirror = data.draw(st.booleans())
    scores = []
    for amount in (one, other):
        image = make(amount)
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else image
        scores.append(judge(detector, image).quality_score)
    assert scores[1] <= scores[0] + 0.02  # four points of a face are a few degrees of noise


@pytest.mark.parametrize("name", [ASTRONAUT, "camera.png", "coffee.png", "chelsea.png", "rocket.jpg"])
def test_compression_falls_with_a_jpegs_quality_and_is_perfect_without(name: str) -> None:
    picture = photo(name)
    scores = [quality.compression(pixels(picture), 1.0)]
    for level in (90, 60, 30, 15, 5):
        with Image.open(io.BytesIO(encoded(picture, "JPEG", quality=level))) as image:
            worst = pixels(image)
        scores.append(quality.compression(worst, 1.0))
    assert all(b <= a + 0.01 for a, b in itertools.pairwise(scores)), scores
    assert scores[0] == 1
    assert scores[-1] < 0.25
    assert quality.compression(worst, 2.0) == 1  # what is worked on smaller shows no blocks


COVERED = {"mouth": (196, 132, 252, 168), "both eyes": (183, 90, 267, 117), "one eye": (226, 90, 267, 117)}


@pytest.mark.parametrize("what", COVERED)
@pytest.mark.parametrize("colour", ["black", "skyblue"])
def test_a_covered_face_shows_less(detector: BlazeFace, what: str, colour: str) -> None:
    image = photo(ASTRONAUT)
    ImageDraw.Draw(image).rectangle(COVERED[what], fill=colour)
    assert judge(detector, photo(ASTRONAUT)).visibility == 1
    assert judge(detector, image).visibility < 0.3


def test_a_face_cut_by_the_edge_shows_less(detector: BlazeFace) -> None:
    cut = judge(detector, photo(ASTRONAUT).crop((195, 0, 512, 512)))
    assert cut.visibility < 0.8


def test_overexposure_lowers_exposure(detector: BlazeFace) -> None:
    scores = [judge(detector, darkened(1 / gain)).exposure for gain in (1, 1.3, 1.8)]
    assert scores == sorted(scores, reverse=True)


def test_a_good_photo_scores_well(detector: BlazeFace) -> None:
    found = judge(detector, photo(ASTRONAUT))
    assert found.quality_score > 0.7
    assert found.angles is not None
    assert max(abs(found.angles.yaw), abs(found.angles.pitch), abs(found.angles.roll)) < 10


@pytest.mark.parametrize("degrees", [-40, -20, 20, 40])
def test_a_tilted_head_shows_as_roll_and_lowers_pose(detector: BlazeFace, degrees: int) -> None:
    upright, tilted = judge(detector, photo(ASTRONAUT)), judge(detector, photo(ASTRONAUT).rotate(degrees))
    assert upright.angles is not None
    assert tilted.angles is not None
    assert tilted.angles.roll - upright.angles.roll == pytest.approx(-degrees, abs=8)
    assert tilted.pose < upright.pose


def marks(nose: tuple[float, float]) -> Landmarks:
    return Landmarks(Point(-50, 0), Point(50, 0), Point(*nose), Point(0, 106))


@pytest.mark.parametrize(
    ("nose", "yaw", "pitch"), [((0, 63), 0, 0), ((25, 63), 27, 0), ((-25, 63), -27, 0), ((0, 88), 0, 27)]
)
def test_the_nose_tells_where_the_head_is_turned(nose: tuple[float, float], yaw: float, pitch: float) -> None:
    angles = quality.angles_of(marks(nose))
    assert [angles.yaw, angles.pitch, angles.roll] == pytest.approx([yaw, pitch, 0], abs=1)


def test_eyes_in_one_point_are_no_error() -> None:
    point = Point(5, 5)
    angles = quality.angles_of(Landmarks(point, point, Point(9, 9), Point(9, 20)))
    assert 0 <= quality.pose(angles) <= 1


def test_a_picture_without_a_face_carries_the_penalty() -> None:
    found = quality.of_picture(pixels(photo("coffee.png")), 1.0)
    assert 0 < found.quality_score <= quality.NO_FACE_PENALTY
    assert (found.size, found.pose, found.angles) == (0, 0, None)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 2048, 3), (2048, 3, 3), (32, 32, 3)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_empty_picture_of_any_shape_scores_nothing(shape: tuple[int, int, int], value: int) -> None:
    assert quality.of_picture(np.full(shape, value, dtype=np.uint8), 1.0).quality_score == 0


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_resampling_keeps_the_range_and_a_plain_value(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    plane = np.random.default_rng(seed).random((height, width))
    out = resample(plane, rows, columns)
    assert out.shape == (rows, columns)
    assert plane.min() - 1e-9 <= out.min()
    assert out.max() <= plane.max() + 1e-9
    assert np.allclose(resample(np.full((height, width), 0.3), rows, columns), 0.3)


@given(SIDES, SIDES, st.integers(1, 40), st.integers(1, 40))
def test_shrinking_keeps_the_mean(height: int, width: int, rows: int, columns: int) -> None:
    plane = np.random.default_rng(height * 41 + width).random((height, width))
    assert resample(plane, min(rows, height), min(columns, width)).mean() == pytest.approx(plane.mean())


def test_luminance_is_0_for_black_and_1_for_white() -> None:
    black_and_white = np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    assert luminance(black_and_white) == pytest.approx(np.array([[0, 1]]), abs=1e-6)
