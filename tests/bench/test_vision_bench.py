"""bench/vision counts what was found, missed and imagined, and tells it on a page."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.vision import report
from bench.vision.detectors import matched, scored
from bench.vision.pictures import FACELESS, LICENCES, PORTRAITS, Known, Sight
from vision.faces.base import Box, Face, Landmarks, Point
from vision.pixels import Pixels

RESULTS = Path(report.__file__).parents[1] / "results"
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
    small, elsewhere = Sight(0.5, 0.5, 0.05), Sight(0.9, 0.9, 0.2)
    known = [
        Known(name, "made", faces, lambda: np.zeros((100, 100, 3), dtype=np.uint8))
        for name, faces in (("one", (MIDDLE,)), ("two", (MIDDLE, elsewhere)), ("small", (small,)), ("none", ()))
    ]
    score = scored(Finds(), known)
    assert (score.found, score.faces, score.small_found, score.small_faces) == (2, 3, 0, 1)
    assert (score.false, score.missed_in, score.pictures) == (6, ["two"], 4)
    assert score.false_in == ["one", "two", "small", "none"]


def test_ratios_are_of_rounds_and_memory_is_told_by_quarters() -> None:
    assert report.ratio([20, 20, 15], [10, 20, 10]) == 1.5
    assert report.quarters_of([1, 2, 3, 4, 5, 6, 7, 8]) == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_every_package_of_a_picture_has_a_licence() -> None:
    assert {package for package, _ in (*PORTRAITS, *FACELESS)} == set(LICENCES)
    assert all(0 < s.x < 1 and 0 < s.y < 1 and 0 < s.size <= 1 for faces in PORTRAITS.values() for s in faces)


def test_the_page_is_made_of_the_kept_figures() -> None:
    told = json.loads((RESULTS / "vision.json").read_text("utf-8"))
    assert (RESULTS / "vision.md").read_text("utf-8") == report.page(told)
