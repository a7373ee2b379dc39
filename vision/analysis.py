"""One photo's answer from its parts: what was seen, how good it is, what was told of it. Keeps nothing."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from core.pictures.decode import Photo
from vision.answer import (
    Analysis,
    AnglesOut,
    BoxOut,
    FaceBox,
    FaceOut,
    Faces,
    FeatureOut,
    ImageSize,
    UsageOut,
    WarningCode,
    WarningOut,
)
from vision.crops import around
from vision.describe import VisionAnswer, merged
from vision.faces.base import Box, Detector, Face, subject
from vision.pixels import Pixels
from vision.quality import Quality, of_face, of_picture
from vision.reading import ApparentAge, Reader, Reading

LOW_QUALITY = 0.35
PORTRAIT_MARGIN, PORTRAIT_SIDE, PORTRAIT_QUALITY = 1.0, 1024, 92
MESSAGES: dict[WarningCode, str] = {
    "no_face": "No face was found; the whole picture was used.",
    "several_faces": "Several faces were found; the largest and most central one is the subject.",
    "low_quality": "The picture is too blurred, dark, small or turned away to describe well.",
    "apparent_minor": "The person may be under 18: only the general tier is allowed.",
    "ambiguous_age": "The person may or may not be an adult: only the general tier is allowed.",
    "no_vision_model": "No vision model is configured; the messages and the schema were not used.",
    "vision_model_unavailable": "The vision model did not answer; its features are missing.",
    "vision_model_schema": "The vision model's answer did not fit the schema; its features are missing.",
}


@dataclass(frozen=True)
class DetectionJob:
    """One job of the device: a picture, and whether its subject is to be read."""

    pixels: Pixels
    read: bool


@dataclass(frozen=True)
class Detection:
    faces: list[Face]
    subject: Face | None
    reading: Reading | None


@dataclass(frozen=True)
class FaceModels:
    """The models that look at pictures, a batch at a time."""

    detector: Detector
    reader: Reader | None

    def look(self, jobs: Sequence[DetectionJob]) -> list[Detection]:
        """detect → pick the subject → read; called from one thread."""
        found = self.detector.detect([job.pixels for job in jobs])
        subjects = [_subject(faces, job.pixels) for faces, job in zip(found, jobs, strict=True)]
        wanted = [(job.pixels, face) for job, face in zip(jobs, subjects, strict=True) if job.read and face is not None]
        readings = iter(self.reader.read(wanted) if self.reader else ())
        return [
            Detection(faces, face, next(readings, None) if job.read and face is not None else None)
            for faces, face, job in zip(found, subjects, jobs, strict=True)
        ]


def judge(photo: Photo, seen: Detection) -> Quality:
    if seen.subject is None:
        return of_picture(photo.pixels, photo.scale)
    return of_face(photo.pixels, seen.subject, photo.scale)


def analysis(photo: Photo, seen: Detection, quality: Quality, told: VisionAnswer | None, model: str | None) -> Analysis:
    """The answer. `told` is None where no vision model was asked."""
    features = merged(_read(seen.reading), told.features if told else {}, model or "")
    age = _apparent_age(seen.reading, features)
    codes = [*_photo_warnings(seen, quality), *_age_warning(age)]
    warnings = [WarningOut(code=code, message=MESSAGES[code]) for code in codes]
    if told is not None and not told.features:
        code: WarningCode = "vision_model_unavailable" if told.failed else "vision_model_schema"
        warnings.append(WarningOut(code=code, message=MESSAGES[code], details=list(told.problems)))
    return Analysis(
        features={name: FeatureOut(**feature) for name, feature in features.items()},
        face=_report(photo, seen, quality),
        image=ImageSize(width=photo.width, height=photo.height),
        apparent_age=age,
        vision_model=model if told is not None and told.features else None,
        warnings=warnings,
        portrait=None,
        usage=None if told is None else UsageOut.of(told.usage),
    )


def found_faces(photo: Photo, seen: Detection) -> Faces:
    """Boxes only."""
    size = ImageSize(width=photo.width, height=photo.height)
    return Faces(faces=[_face_box(face, photo) for face in seen.faces], image=size)


def portrait(photo: Photo, face: Face | None) -> bytes:
    """The subject with its surroundings, or the whole picture: upright, small, a JPEG without metadata."""
    pixels = photo.pixels if face is None else around(photo.pixels, face.box, PORTRAIT_MARGIN)
    image = Image.fromarray(pixels)
    image.thumbnail((PORTRAIT_SIDE, PORTRAIT_SIDE), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=PORTRAIT_QUALITY)
    return out.getvalue()


def _subject(faces: list[Face], pixels: Pixels) -> Face | None:
    height, width = pixels.shape[:2]
    return subject(faces, width, height) if faces else None


def _read(reading: Reading | None) -> dict[str, Any]:
    if reading is None:
        return {}
    read = {"age_bracket": reading.age, "expression": reading.expression}
    return {
        name: {"value": one.value, "confidence": _round(one.confidence), "source": one.source}
        for name, one in read.items()
    }


def _apparent_age(reading: Reading | None, features: dict[str, dict[str, Any]]) -> ApparentAge:
    """The youngest that any model takes the person for."""
    if features.get("age_bracket", {}).get("value") == "under 18":
        return "minor"
    if reading is not None:
        return reading.apparent_age
    return "adult" if "age_bracket" in features else "unknown"


def _photo_warnings(seen: Detection, quality: Quality) -> list[WarningCode]:
    codes: list[WarningCode] = []
    if not seen.faces:
        codes.append("no_face")
    if len(seen.faces) > 1:
        codes.append("several_faces")
    if quality.quality_score < LOW_QUALITY:
        codes.append("low_quality")
    return codes


def _age_warning(age: ApparentAge) -> list[WarningCode]:
    if age == "minor":
        return ["apparent_minor"]
    return ["ambiguous_age"] if age == "ambiguous" else []


def _report(photo: Photo, seen: Detection, quality: Quality) -> FaceOut:
    main, angles = seen.subject, quality.angles
    scores = {name: _round(getattr(quality, name)) for name in FaceOut.model_fields if name in _SCORES}
    return FaceOut(
        found=main is not None,
        box=_box(main.box, photo) if main else None,
        score=_round(main.score) if main else None,
        **scores,
        angles=AnglesOut(**{name: round(value, 1) for name, value in vars(angles).items()}) if angles else None,
        others=[_face_box(face, photo) for face in seen.faces if face is not main],
    )


_SCORES = frozenset(Quality.__dataclass_fields__) - {"angles"}


def _face_box(face: Face, photo: Photo) -> FaceBox:
    return FaceBox(box=_box(face.box, photo), score=_round(face.score))


def _box(box: Box, photo: Photo) -> BoxOut:
    """The part of the box that is in the photo, in whole pixels of the photo as sent."""
    x, y, width, height = (value * photo.scale for value in box)
    left, right = (round(min(max(edge, 0), photo.width)) for edge in (x, x + width))
    top, bottom = (round(min(max(edge, 0), photo.height)) for edge in (y, y + height))
    return BoxOut(x=left, y=top, width=right - left, height=bottom - top)


def _round(value: float) -> float:
    return round(value, 4)
