"""Whether the quality of real photos falls as a fault grows: each portrait, blurred, darkened, shrunk and turned.

Of photos with one face: in others the subject changes. A head is turned farther to the side to which it leans.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from bench.vision.pictures import Known
from vision.faces.base import Detector, subject
from vision.quality import Quality, of_face

SLACK = 0.01  # of the score: what detecting anew may move
Fault = Callable[[Image.Image, float], Image.Image]


def _shrunk(image: Image.Image, by: float) -> Image.Image:
    size = round(image.width / by), round(image.height / by)
    return image.resize(size, Image.Resampling.LANCZOS)


FAULTS: dict[str, tuple[Fault, tuple[float, ...]]] = {
    "blur": (lambda image, radius: image.filter(ImageFilter.GaussianBlur(radius)), (0, 1, 2, 3, 5, 8)),
    "darkening": (lambda image, by: ImageEnhance.Brightness(image).enhance(1 / by), (1, 1.5, 2, 3, 5, 8)),
    "downscaling": (_shrunk, (1, 1.5, 2, 3, 4, 6)),
    "rotation": (lambda image, angle: image.rotate(angle, Image.Resampling.BICUBIC, expand=True), (0, 10, 20, 30, 45)),
}


@dataclass
class Course:
    """Of one fault over all portraits: `worst` is the largest rise of the score from one step to the next."""

    steps: int = 0
    rises: int = 0  # by more than SLACK
    worst: float = 0.0
    lower_at_the_end: int = 0
    portraits: int = 0
    rose_in: list[str] = field(default_factory=list)


def courses(detector: Detector, portraits: Iterable[Known]) -> dict[str, Course]:
    found = {name: Course() for name in FAULTS}
    for known in portraits:
        image = Image.fromarray(known.pixels())
        first = _quality(detector, image)
        if len(known.faces) > 1 or first is None or first.angles is None:
            continue
        aside = -1 if first.angles.roll >= 0 else 1
        for name, (fault, amounts) in FAULTS.items():
            amounts = tuple(amount * aside for amount in amounts) if name == "rotation" else amounts
            seen = [_quality(detector, fault(image, amount)) for amount in amounts]
            scores = [one.quality_score for one in seen if one is not None]
            if len(scores) > 1:
                _note(found[name], known.name, scores)
    return found


def _quality(detector: Detector, image: Image.Image) -> Quality | None:
    """None where the fault hides the face."""
    pixels = np.asarray(image)
    [faces] = detector.detect([pixels])
    return of_face(pixels, subject(faces, image.width, image.height), 1.0) if faces else None


def _note(course: Course, name: str, scores: list[float]) -> None:
    rises = [after - before for before, after in itertools.pairwise(scores)]
    course.portraits += 1
    course.steps += len(rises)
    course.rises += sum(rise > SLACK for rise in rises)
    course.worst = round(max(course.worst, *rises), 3)
    course.lower_at_the_end += scores[-1] < scores[0]
    if max(rises) > SLACK:
        course.rose_in.append(name)
