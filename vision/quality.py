"""How fit a photo is to describe a person by: six scores from 0 to 1 and one that joins them.

In the spirit of ISO/IEC 29794-5. No score judges by how light or dark skin is: exposure looks at lost detail only.

    quality_score = sharpness^0.3 * exposure^0.22 * size^0.18 * pose^0.15 * visibility^0.1 * compression^0.05

A geometric mean: it grows with each part, and one useless part makes the photo useless. Without a face it is half of
the same mean over the parts that a whole picture has: sharpness, exposure and compression.
"""

import math
from dataclasses import dataclass

import numpy as np

from vision.faces.base import Box, Face, Landmarks
from vision.pixels import Pixels, Plane, luminance, resample

FACE_SIDE = 160  # px: a face's sharpness is judged at one size, so that a small one counts as the blur that it is
LOOK_SIDE = 512  # px: more does not change the scores
BLUR_ROWS = 9  # px of the mean that detail is compared with
SHARP = 0.55  # share of fine variation lost to that mean, from which a picture is fully sharp
BLACK, WHITE = 25 / 255, 247 / 255  # luma at which detail is lost
FULL_RANGE = 0.35  # luma from the 5th to the 95th percentile
ENOUGH_EYES = 90.0  # px between the eyes, as for a passport photo
NOSE_DEPTH = 0.5  # how far the nose stands out, in distances between the eyes
NOSE_HEIGHT = 0.59  # where it is from the eyes' line to the mouth on a level face
EYE_PATCH = (0.22, 0.15)  # half width and height of what is looked at around a mark, in distances between the eyes
LEAST_VISIBLE = 0.1  # visibility is a hint: by itself it makes no photo useless
BLOCK = 8  # px: a JPEG's grid
NO_BLOCKS = 1.1  # steps at the grid against steps elsewhere, up to which a picture shows no blocks
WEIGHTS = {"sharpness": 0.3, "exposure": 0.22, "size": 0.18, "pose": 0.15, "visibility": 0.1, "compression": 0.05}
NO_FACE_PENALTY = 0.5


@dataclass(frozen=True)
class Angles:
    """Degrees, estimated from four points: a few are noise. 0 looks straight into the camera."""

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class Quality:
    """All from 0 to 1. `brightness` is the mean luma, a measurement; the others are scores, 1 is best."""

    sharpness: float
    brightness: float
    exposure: float
    size: float
    pose: float
    visibility: float
    compression: float
    angles: Angles | None
    quality_score: float


def of_face(pixels: Pixels, face: Face, scale: float) -> Quality:
    """Quality of one face. `scale`: pixels of the photo as sent for one of `pixels`."""
    area = _plane(_crop(pixels, face.box))
    angles = angles_of(face.landmarks)
    parts = {
        "sharpness": sharpness(resample(area, FACE_SIDE, FACE_SIDE)),
        "exposure": exposure(area),
        "size": min(1.0, _between_eyes(face.landmarks) * scale / ENOUGH_EYES),
        "pose": pose(angles),
        "visibility": visibility(pixels, face),
        "compression": compression(pixels, scale),
    }
    score = math.prod(parts[name] ** weight for name, weight in WEIGHTS.items())
    return Quality(**parts, brightness=float(area.mean()), angles=angles, quality_score=score)


def of_picture(pixels: Pixels, scale: float) -> Quality:
    """Quality of a picture without a face: what only a face has is 0, the joint score carries the penalty."""
    whole = _plane(pixels)
    parts = {"sharpness": sharpness(whole), "exposure": exposure(whole), "compression": compression(pixels, scale)}
    weights = sum(WEIGHTS[name] for name in parts)
    score = NO_FACE_PENALTY * math.prod(value ** (WEIGHTS[name] / weights) for name, value in parts.items())
    none = dict.fromkeys(("size", "pose", "visibility"), 0.0)
    return Quality(**parts, **none, brightness=float(whole.mean()), angles=None, quality_score=score)


def sharpness(area: Plane) -> float:
    """How much fine variation a mean over BLUR_ROWS takes away, in the direction where that is least. A sharp picture
    loses most of it and a blurred one has none to lose (Crété-Roffet et al., 2007). It is a ratio, so light and
    contrast hardly matter."""
    return min(1.0, _lost(area) / SHARP, _lost(area.T) / SHARP)


def _lost(plane: Plane) -> float:
    """Share of the row-to-row variation of `plane` that vanishes in its running mean."""
    summed = np.cumsum(plane, axis=0, dtype=np.float64)
    mean = (summed[BLUR_ROWS:] - summed[:-BLUR_ROWS]) / BLUR_ROWS
    half = BLUR_ROWS // 2
    inner = plane[half + 1 : half + 1 + mean.shape[0]]
    variation, blurred = np.abs(np.diff(inner, axis=0)), np.abs(np.diff(mean, axis=0))
    total = float(variation.sum())
    return float(np.maximum(variation - blurred, 0).sum()) / total if total > 0 else 0.0


def exposure(area: Plane) -> float:
    """The share that is neither black nor white, times how much of the usual range of luma is used."""
    lost = float(np.mean(area < BLACK)) + float(np.mean(area > WHITE))
    low, high = np.percentile(area, [5, 95])
    return max(0.0, 1 - lost) * min(1.0, float(high - low) / FULL_RANGE)


def angles_of(marks: Landmarks) -> Angles:
    """Where the head is turned, from where the nose stands between the eyes and the mouth."""
    right, left = np.array(marks.right_eye), np.array(marks.left_eye)
    across = left - right
    eyes = max(float(np.hypot(*across)), 1e-6)
    along = across / eyes
    down = np.array([-along[1], along[0]])
    nose, mouth = np.array(marks.nose) - (right + left) / 2, np.array(marks.mouth) - (right + left) / 2
    aside = float(nose @ along) / eyes
    height = float(mouth @ down) / eyes
    lower = float(nose @ down) / eyes - NOSE_HEIGHT * height
    return Angles(
        yaw=math.degrees(math.atan(aside / NOSE_DEPTH)),
        pitch=math.degrees(math.atan(lower / NOSE_DEPTH)),
        roll=math.degrees(math.atan2(across[1], across[0])),
    )


def pose(angles: Angles) -> float:
    """1 for a level face towards the camera; falls as the squared cosine of each angle, 0 from a right angle on."""
    return math.prod(max(0.0, math.cos(math.radians(a))) ** 2 for a in (angles.yaw, angles.pitch, angles.roll))


def visibility(pixels: Pixels, face: Face) -> float:
    """A hint whether something covers the face: eyes and mouth vary more than the rest of it, what covers them does
    not. Times the share of the face that is in the picture. 1: nothing seems to cover it."""
    detail = _detail(luminance(_crop(pixels, face.box)))
    usual = max(float(detail.mean()), 1e-6)
    left, top = max(0, round(face.box.x)), max(0, round(face.box.y))
    eyes = _between_eyes(face.landmarks)
    marks = (face.landmarks.right_eye, face.landmarks.left_eye, face.landmarks.mouth)
    shown = min(_patch_mean(detail, mark.x - left, mark.y - top, eyes) / usual for mark in marks)
    return max(LEAST_VISIBLE, min(1.0, shown) * _share_inside(pixels, face.box))


def compression(pixels: Pixels, scale: float) -> float:
    """1 where a JPEG's blocks do not show; falls as the square of the steps at their grid against steps elsewhere. A
    photo that is worked on smaller than it was sent (scale above 1) shows none. The grid's place is searched for."""
    if scale > 1:
        return 1.0
    plane = luminance(pixels[:LOOK_SIDE, :LOOK_SIDE])
    shown = max(NO_BLOCKS, _steps_at_grid(plane), _steps_at_grid(plane.T))
    return (NO_BLOCKS / shown) ** 2


def _steps_at_grid(plane: Plane) -> float:
    steps = np.abs(np.diff(plane, axis=1))
    whole = steps.shape[1] // BLOCK * BLOCK
    if not whole:
        return 1.0
    phases = steps[:, :whole].reshape(steps.shape[0], -1, BLOCK).mean(axis=(0, 1))
    grid = int(phases.argmax())
    return float(phases[grid] / (np.delete(phases, grid).mean() + 0.002))  # a plain wall has no blocks


def _detail(plane: Plane) -> Plane:
    """How much each pixel differs from those beside and below it."""
    padded = np.pad(plane, ((0, 1), (0, 1)), mode="edge")
    detail: Plane = np.hypot(np.diff(padded[:-1], axis=1), np.diff(padded[:, :-1], axis=0))
    return detail


def _patch_mean(detail: Plane, x: float, y: float, eyes: float) -> float:
    """The mean around a point; 0 outside of the picture."""
    across, down = (half * eyes for half in EYE_PATCH)
    patch: Plane = detail[
        max(0, int(y - down)) : max(0, int(y + down) + 1), max(0, int(x - across)) : max(0, int(x + across) + 1)
    ]
    return float(patch.mean()) if patch.size else 0.0


def _share_inside(pixels: Pixels, box: Box) -> float:
    height, width = pixels.shape[:2]
    across = min(box.x + box.width, width) - max(box.x, 0)
    down = min(box.y + box.height, height) - max(box.y, 0)
    return float(max(0.0, across) * max(0.0, down) / max(box.width * box.height, 1e-6))


def _plane(pixels: Pixels) -> Plane:
    """Luma, at most LOOK_SIDE a side."""
    plane = luminance(pixels)
    height, width = (min(side, LOOK_SIDE) for side in plane.shape)
    return resample(plane, height, width)


def _between_eyes(marks: Landmarks) -> float:
    return math.dist(marks.right_eye, marks.left_eye)


def _crop(pixels: Pixels, box: Box) -> Pixels:
    """The part of the box that is in the picture, at least one pixel."""
    height, width = pixels.shape[:2]
    x = min(max(round(box.x), 0), width - 1)
    y = min(max(round(box.y), 0), height - 1)
    right = min(max(round(box.x + box.width), x + 1), width)
    bottom = min(max(round(box.y + box.height), y + 1), height)
    return pixels[y:bottom, x:right]
