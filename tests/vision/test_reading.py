"""What the small models read, and what follows from how old a face looks."""

import numpy as np
import pytest

from tests.vision.photos import ASTRONAUT, photo, pixels
from vision import reading
from vision.crops import EYES_AT, aligned, around
from vision.faces.base import Box, Face, Landmarks, Point
from vision.faces.blazeface import BlazeFace
from vision.reading import BRACKETS, ApparentAge, SmallModels


def ages(**at: float) -> reading.Ages:
    """Probabilities with the given mass at the given ages (`a16=0.4`)."""
    found = np.zeros(81, dtype=np.float32)
    for name, mass in at.items():
        found[int(name[1:])] = mass
    return found


CASES: list[tuple[reading.Ages, ApparentAge]] = [
    (ages(a35=1), "adult"),
    (ages(a25=1), "adult"),
    (ages(a20=1), "ambiguous"),
    (ages(a10=1), "minor"),
    (ages(a17=1), "minor"),
    (ages(a17=0.31, a60=0.69), "minor"),
    (ages(a17=0.2, a40=0.8), "ambiguous"),
    (ages(a17=0.05, a40=0.95), "adult"),
    (ages(a0=0.29, a18=0.71), "minor"),  # expected below 18
]


@pytest.mark.parametrize(("probabilities", "wanted"), CASES)
def test_who_may_be_a_minor(probabilities: reading.Ages, wanted: ApparentAge) -> None:
    assert reading.apparent_age(probabilities) == wanted


def test_the_brackets_cover_every_age_once() -> None:
    covered = [age for _, low, high in BRACKETS for age in range(low, high)]
    assert covered == list(range(81))
    assert reading.age_of(ages(a40=0.6, a50=0.4)).value == "30 to 44"


def test_an_expression_is_what_is_seen_and_not_what_is_felt() -> None:
    angry, disgusted, afraid, happy, sad, surprised, none = np.eye(7, dtype=np.float32)
    shown = [reading.expression_of(one).value for one in (angry, disgusted, afraid, sad, none, happy, surprised)]
    assert shown == ["serious"] * 5 + ["smiling", "surprised"]
    assert reading.expression_of((angry + sad) * np.float32(0.5)).confidence == pytest.approx(1)


def test_the_astronaut_is_a_smiling_adult(detector: BlazeFace, reader: SmallModels) -> None:
    image = pixels(photo(ASTRONAUT))
    [[face]] = detector.detect([image])
    [found] = reader.read([(image, face)])
    assert (found.apparent_age, found.expression.value) == ("adult", "smiling")
    assert found.expression.confidence > 0.9


@pytest.mark.parametrize("degrees", [-30, 30])
def test_a_tilted_head_is_read_like_a_level_one(detector: BlazeFace, reader: SmallModels, degrees: int) -> None:
    level, tilted = pixels(photo(ASTRONAUT)), pixels(photo(ASTRONAUT).rotate(degrees))
    faces = [detector.detect([image])[0][0] for image in (level, tilted)]
    first, second = reader.read([(level, faces[0]), (tilted, faces[1])])
    assert first.apparent_age == second.apparent_age == "adult"


def test_a_batch_reads_each_as_if_alone(detector: BlazeFace, reader: SmallModels) -> None:
    image = pixels(photo(ASTRONAUT))
    small = pixels(photo(ASTRONAUT).resize((200, 200)))
    faces = [(one, detector.detect([one])[0][0]) for one in (image, small)]
    together, alone = reader.read(faces), [reader.read([one])[0] for one in faces]
    for one, other in zip(together, alone, strict=True):
        assert one.age.value == other.age.value
        assert one.age.confidence == pytest.approx(other.age.confidence, abs=1e-4)
        assert one.expression == other.expression
    assert reader.read([]) == []


@pytest.mark.parametrize("eyes", [((100, 100), (160, 100)), ((300, 120), (220, 260)), ((40, 40), (52, 47))])
def test_an_aligned_chip_has_its_eyes_where_they_belong(eyes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    image = np.zeros((400, 400, 3), dtype=np.uint8)
    apart = int(np.hypot(eyes[1][0] - eyes[0][0], eyes[1][1] - eyes[0][1]))
    for channel, (x, y) in enumerate(eyes):
        size = max(1, apart // 12)
        image[y - size : y + size + 1, x - size : x + size + 1, channel] = 255
    marks = Landmarks(Point(*eyes[0]), Point(*eyes[1]), Point(0, 0), Point(0, 0))
    chip = aligned(image, Face(Box(0, 0, 9, 9), 1, marks), 64).astype(float)
    assert chip.shape == (64, 64, 3)
    for channel, (across, down) in enumerate(EYES_AT):
        rows, columns = np.mgrid[0:64, 0:64]
        weight = chip[:, :, channel] / chip[:, :, channel].sum()
        assert (columns * weight).sum() == pytest.approx(across * 64, abs=1.5)
        assert (rows * weight).sum() == pytest.approx(down * 64, abs=1.5)


@pytest.mark.parametrize("box", [Box(-50, -50, 20, 20), Box(500, 500, 40, 40), Box(0, 0, 0, 0), Box(-9, 5, 900, 2)])
def test_a_box_outside_of_the_picture_gives_something(box: Box) -> None:
    assert around(np.zeros((64, 64, 3), dtype=np.uint8), box, 0.1).size > 0
