"""A file as a caller sent it → upright RGB pixels.

Limits are checked on the header, before anything is decoded. The pixels carry no metadata, and nothing touches a disk.
"""

import io
import logging
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from core.errors import InvalidRequest, PayloadTooLarge
from vision.pixels import Pixels

FORMATS = ("JPEG", "PNG", "WEBP")
MIN_SIDE = 32  # px: less cannot show a face
WORKING_SIDE = 1536  # px: more adds memory, not accuracy
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = 5  # from this orientation on, width and height change places
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)

logging.getLogger("PIL").setLevel(logging.INFO)  # at debug Pillow logs EXIF values, places included


@dataclass(frozen=True)
class Limits:
    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class Photo:
    """`pixels` is at most WORKING_SIDE a side; `width` and `height` (px) are the upright photo's as it was sent."""

    pixels: Pixels
    width: int
    height: int

    @property
    def scale(self) -> float:
        """Pixels of the photo as sent for one of `pixels`."""
        return max(self.width, self.height) / int(max(self.pixels.shape))


def decode(data: bytes, limits: Limits) -> Photo:
    """Read a JPEG, PNG or WebP still by its content, whatever its name. Raises InvalidRequest, PayloadTooLarge."""
    if not data:
        raise _refusal("empty_image", "The image is empty.")
    if len(data) > limits.max_bytes:
        raise PayloadTooLarge(f"The image is larger than {limits.max_bytes} bytes.", code="image_bytes", param="image")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check(image, limits)
            return _read(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:  # Pillow's own limit came first
        raise _too_many_pixels(limits) from exc
    except UnidentifiedImageError as exc:
        raise _refusal("unsupported_image", f"The image is none of {', '.join(FORMATS)}.") from exc
    except UNREADABLE as exc:
        raise _refusal("unreadable_image", "The image is damaged or incomplete.") from exc


def _check(image: Image.Image, limits: Limits) -> None:
    """By the header alone. A phone's MPO is a JPEG with companions, not an animation: its first picture counts."""
    if image.width * image.height > limits.max_pixels:
        raise _too_many_pixels(limits)
    if min(image.size) < MIN_SIDE:
        raise _refusal("image_too_small", f"The image is less than {MIN_SIDE} pixels wide or high.")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise _refusal("animated_image", "The image is animated; send a still.")


def _read(image: Image.Image) -> Photo:
    width, height = image.size
    if image.mode in ("P", "1") or image.mode.startswith("I"):  # these do not shrink well as they are
        image = _opaque(image)
    image.thumbnail((WORKING_SIDE, WORKING_SIDE), reducing_gap=1.0)
    orientation = _orientation(image)
    if orientation >= SIDEWAYS:
        width, height = height, width
    rgb = _opaque(image)
    if orientation in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[orientation])
    return Photo(np.array(rgb, dtype=np.uint8), width, height)


def _orientation(image: Image.Image) -> int:
    """1 (upright) where the metadata is broken: the picture itself is still good."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except UNREADABLE:
        return 1
    return value if isinstance(value, int) and value in UPRIGHT else 1


def _opaque(image: Image.Image) -> Image.Image:
    """RGB, 8 bits; what is transparent shows white, as it would on a page."""
    if image.mode.startswith("I"):  # 16 bits: keep the upper 8, where Pillow would clip
        narrow = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
        narrow.info = image.info
        return narrow
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        page.info = image.info
        image = page
    return image.convert("RGB")


def _refusal(code: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, code=code, param="image")


def _too_many_pixels(limits: Limits) -> InvalidRequest:
    return _refusal("image_pixels", f"The image has more than {limits.max_pixels} pixels.")
