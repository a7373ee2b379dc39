"""A file as a caller sent it → upright RGB pixels.

Limits are checked on the header, before anything is decoded. The pixels carry no metadata, and nothing touches a disk.
"""

import io
import logging
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import pi_heif
from PIL import AvifImagePlugin, Image, UnidentifiedImageError

from core.errors import InvalidRequest, PayloadTooLarge
from vision.pixels import Pixels

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")
MIN_SIDE = 32  # px: less cannot show a face
WORKING_SIDE = 1536  # px: more adds memory, not accuracy
STRIP = 256  # px: rows that are converted at a time
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
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error, zlib.error)

FIXED_BYTES = 40 << 20  # what decoding takes besides: strips, the working picture
BYTES_PER_PIXEL = {"JPEG": 2.0, "PNG": 4.5, "WEBP": 16.0, "AVIF": 12.0, "HEIF": 12.0}
"""Measured peaks of each decoder, rounded up. A JPEG is decoded small at once, unless it is progressive."""
PROGRESSIVE_BYTES_PER_PIXEL = 8.0

logging.getLogger("PIL").setLevel(logging.INFO)  # at debug Pillow logs EXIF values, places included
pi_heif.register_heif_opener(thumbnails=False, aux_images=False, depth_images=False, decode_threads=1)
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@dataclass(frozen=True)
class Limits:
    """`max_memory`: bytes that decoding one picture may take."""

    max_bytes: int
    max_pixels: int
    max_memory: int = 200 << 20


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


def decode(data: bytes | bytearray, limits: Limits) -> Photo:
    """Read a still of one of FORMATS by its content, whatever its name. Raises InvalidRequest, PayloadTooLarge."""
    if not data:
        raise refusal("empty_image", "The image is empty.")
    if len(data) > limits.max_bytes:
        raise PayloadTooLarge(f"The image is larger than {limits.max_bytes} bytes.", code="image_bytes", param="image")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check(image, limits)
            return _read(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:  # Pillow's own limit came first
        raise _too_many_pixels(limits.max_pixels) from exc
    except UnidentifiedImageError as exc:
        raise refusal("unsupported_image", f"The image is none of {', '.join(FORMATS)}.") from exc
    except MemoryError as exc:
        raise refusal("image_memory", "The image takes too much memory to decode.") from exc
    except UNREADABLE as exc:
        raise refusal("unreadable_image", "The image is damaged or incomplete.") from exc


def _check(image: Image.Image, limits: Limits) -> None:
    """By the header alone. A phone's MPO and HEIC hold companions, not an animation: their first picture counts."""
    most = min(limits.max_pixels, int((limits.max_memory - FIXED_BYTES) / _bytes_per_pixel(image)))
    if image.width * image.height > most:
        raise _too_many_pixels(most)
    if min(image.size) < MIN_SIDE:
        raise refusal("image_too_small", f"The image is less than {MIN_SIDE} pixels wide or high.")
    if image.format not in ("MPO", "HEIF") and getattr(image, "n_frames", 1) > 1:
        raise refusal("animated_image", "The image is animated; send a still.")


def _bytes_per_pixel(image: Image.Image) -> float:
    if image.info.get("progressive"):
        return PROGRESSIVE_BYTES_PER_PIXEL
    return BYTES_PER_PIXEL["JPEG" if image.format == "MPO" else image.format or "AVIF"]


def _read(image: Image.Image) -> Photo:
    width, height = image.size
    image.draft(None, (WORKING_SIDE, WORKING_SIDE))  # a JPEG is decoded at a half, a quarter or an eighth at once
    image.load()
    small = _shrunk(image)
    orientation = _orientation(image)
    if orientation in UPRIGHT:
        small = small.transpose(UPRIGHT[orientation])
    if orientation >= SIDEWAYS:
        width, height = height, width
    return Photo(np.array(small, dtype=np.uint8), width, height)


def _shrunk(image: Image.Image) -> Image.Image:
    """RGB, at most WORKING_SIDE a side; strip by strip, so that no second picture of the full size exists."""
    factor = max(1, max(image.size) // WORKING_SIDE)
    small = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top in range(0, image.height, STRIP * factor):
        strip = image.crop((0, top, image.width, min(top + STRIP * factor, image.height)))
        strip.info = {name: image.info[name] for name in ("transparency",) if name in image.info}
        small.paste(_opaque(strip, factor), (0, top // factor))
    small.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX, reducing_gap=None)
    return small


def _orientation(image: Image.Image) -> int:
    """1 (upright) where the metadata is broken: the picture itself is still good."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except UNREADABLE:
        return 1
    return value if isinstance(value, int) and value in UPRIGHT else 1


def _opaque(image: Image.Image, factor: int) -> Image.Image:
    """RGB, 8 bits, `factor` times smaller; what is transparent shows white, as it would on a page."""
    if image.mode.startswith("I"):  # 16 bits: keep the upper 8, where Pillow would clip
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB").reduce(factor)
    clear = image.convert("RGBA").convert("RGBa").reduce(factor).convert("RGBA")  # weighted by how opaque a pixel is
    page = Image.new("RGBA", clear.size, "white")
    page.alpha_composite(clear)
    return page.convert("RGB")


def refusal(code: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, code=code, param="image")


def _too_many_pixels(most: int) -> InvalidRequest:
    return refusal("image_pixels", f"The image has more than {most} pixels, the most for its format.")
