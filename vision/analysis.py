"""One photo from bytes to answer: decode → detect → judge. Runs in a worker thread; keeps nothing."""

import threading
from dataclasses import dataclass

from vision.answer import Analysis, AnglesOut, BoxOut, FaceOut, Faces, Found, ImageSize, WarningCode, WarningOut
from vision.decode import Limits, Photo, decode
from vision.faces.base import Detector, Face, subject
from vision.quality import Quality, of_face, of_picture

LOW_QUALITY = 0.35
MESSAGES: dict[WarningCode, str] = {
    "no_face": "No face was found; the whole picture was used.",
    "several_faces": "Several faces were found; the largest and most central one is the subject.",
    "low_quality": "The picture is too blurred, dark, small or turned away to describe well.",
}


class Abandoned(Exception):
    """The client left; nobody reads this."""


@dataclass(frozen=True)
class Analyst:
    """What every request shares."""

    detector: Detector
    limits: Limits

    def analyze(self, data: bytes, stop: threading.Event) -> Analysis:
        """Raises InvalidRequest and PayloadTooLarge for what is no usable picture."""
        photo, faces = self._look(data, stop)
        height, width = photo.pixels.shape[:2]
        main = subject(faces, width, height) if faces else None
        quality = of_face(photo.pixels, main, photo.scale) if main else of_picture(photo.pixels)
        others = [_found(face, photo) for face in faces if face is not main]
        return Analysis(
            features={},
            face=_report(photo, main, quality, others),
            image=ImageSize(width=photo.width, height=photo.height),
            warnings=[WarningOut(code=code, message=MESSAGES[code]) for code in _warnings(faces, quality)],
        )

    def find(self, data: bytes, stop: threading.Event) -> Faces:
        """Boxes only. Raises as `analyze` does."""
        photo, faces = self._look(data, stop)
        found = [_found(face, photo) for face in faces]
        return Faces(faces=found, image=ImageSize(width=photo.width, height=photo.height))

    def _look(self, data: bytes, stop: threading.Event) -> tuple[Photo, list[Face]]:
        photo = decode(data, self.limits)
        if stop.is_set():
            raise Abandoned("The client left.")
        return photo, self.detector.detect([photo.pixels])[0]


def _warnings(faces: list[Face], quality: Quality) -> list[WarningCode]:
    codes: list[WarningCode] = []
    if not faces:
        codes.append("no_face")
    if len(faces) > 1:
        codes.append("several_faces")
    if quality.quality_score < LOW_QUALITY:
        codes.append("low_quality")
    return codes


def _report(photo: Photo, main: Face | None, quality: Quality, others: list[Found]) -> FaceOut:
    angles = quality.angles
    return FaceOut(
        found=main is not None,
        box=_box(main, photo) if main else None,
        score=_round(main.score) if main else None,
        quality_score=_round(quality.quality_score),
        sharpness=_round(quality.sharpness),
        brightness=_round(quality.brightness),
        exposure=_round(quality.exposure),
        size=_round(quality.size),
        pose=_round(quality.pose),
        angles=AnglesOut(**{name: round(value, 1) for name, value in vars(angles).items()}) if angles else None,
        others=others,
    )


def _found(face: Face, photo: Photo) -> Found:
    return Found(box=_box(face, photo), score=_round(face.score))


def _box(face: Face, photo: Photo) -> BoxOut:
    """The part of the box that is in the photo, in whole pixels of the photo as sent."""
    x, y, width, height = (value * photo.scale for value in face.box)
    left, right = (round(min(max(edge, 0), photo.width)) for edge in (x, x + width))
    top, bottom = (round(min(max(edge, 0), photo.height)) for edge in (y, y + height))
    return BoxOut(x=left, y=top, width=right - left, height=bottom - top)


def _round(value: float) -> float:
    return round(value, 4)
