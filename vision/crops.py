"""Cut-outs of faces, as the models that read them want them."""

import math

import numpy as np
from PIL import Image

from vision.faces.base import Box, Face
from vision.pixels import Pixels

EYES_AT = ((0.305, 0.301), (0.681, 0.301))
"""Where dlib's face chips with a padding of 0.2 have the centres of the eyes, in sides of the chip."""


def aligned(pixels: Pixels, face: Face, side: int) -> Pixels:
    """(side, side, 3): turned and scaled so that the eyes are at EYES_AT."""
    (ax, ay), (bx, _) = ((x * side, y * side) for x, y in EYES_AT)
    right, left = face.landmarks.right_eye, face.landmarks.left_eye
    across, down = left.x - right.x, left.y - right.y
    scale = max(math.hypot(across, down), 1e-3) / (bx - ax)
    cos, sin = across / (bx - ax), down / (bx - ax)
    finer = max(1, min(8, math.ceil(scale)))  # drawn so many times larger and averaged: no aliasing
    along_x = (cos / finer, -sin / finer, right.x - cos * ax + sin * ay)
    along_y = (sin / finer, cos / finer, right.y - sin * ax - cos * ay)
    drawn = Image.fromarray(pixels).transform(
        (side * finer, side * finer), Image.Transform.AFFINE, (*along_x, *along_y), Image.Resampling.BILINEAR
    )
    return np.asarray(drawn.reduce(finer))


def around(pixels: Pixels, box: Box, margin: float) -> Pixels:
    """The box and `margin` times its size on each side, as far as the picture goes; at least one pixel."""
    height, width = pixels.shape[:2]
    left, top = (max(0, round(start - margin * size)) for start, size in ((box.x, box.width), (box.y, box.height)))
    right = round(box.x + (1 + margin) * box.width)
    bottom = round(box.y + (1 + margin) * box.height)
    left, top = min(left, width - 1), min(top, height - 1)
    return pixels[top : max(top + 1, bottom), left : max(left + 1, right)]
