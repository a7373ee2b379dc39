"""bench/vision counts what was found, missed and imagined."""

from collections.abc import Sequence

import numpy as np
import pytest

from bench.vision import Picture, Sight, matched, scored
from vision.faces.base import Box, Face, Landmarks, Point
from vision.pixels import Pixels

MIDDLE = Sight(0.5, 0.5, 0.2)


def face(x: float, y: float, side: float) -> Face:
    centre = Point(x, y)
    return Face(Box(x - side / 2, y - side / 2, side, side), 0.9, Landmarks(centre, centre, centre, centre))


CASES = {
    "on it": ([face(50, 50, 20)], [True]),
    "beside it": ([face(65, 50, 20)], [False]),
    "far too large": ([face(50, 50, 60)], [False]),
    "far too small": ([face(50, 50, 7)], [False]),
    "nothing": ([], [False]),
    "twice": ([face(50, 50, 20), face(51, 50, 20)], [True]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_box_finds_a_face_where_it_is_on_it(name: str) -> None:
    faces, hits = CASES[name]
    assert matched(faces, [MIDDLE], 100, 100) == hits


def test_one_box_finds_one_face() -> None:
    beside = Sight(0.53, 0.5, 0.2)
    assert sorted(matched([face(51, 50, 20)], [MIDDLE, beside], 100, 100)) == [False, True]


class Finds:
    name = "finds"

    def detect(self, images: Sequence[Pixels]) -> list[list[Face]]:
        return [[face(50, 50, 20), face(10, 10, 10)] for _ in images]


def test_found_missed_and_false_are_counted() -> None:
    elsewhere = Sight(0.9, 0.9, 0.2)
    known = [
        Picture(name, faces, lambda: np.zeros((100, 100, 3), dtype=np.uint8))
        for name, faces in (("one", (MIDDLE,)), ("two", (MIDDLE, elsewhere)), ("none", ()))
    ]
    score = scored(Finds(), known)
    assert (score.found, score.faces, score.false, score.pictures) == (2, 3, 4, 3)
    assert (score.missed_in, score.false_in) == (["two"], ["one", "two", "none"])
