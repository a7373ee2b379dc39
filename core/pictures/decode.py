"""A file as a caller sent it → upright RGB pixels, or how opaque it is.

Limits are checked on the header, before anything is decoded. The pixels carry no metadata, and nothing touches a disk.
"""

import io
import logging
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, UnidentifiedImageError

from core.errors import InvalidRequest, PayloadTooLarge
from core.pictures import flat

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

WORKING_SIDE = 1536  # px
FIXED_BYTES = 40 << 20  # what decoding to that side takes besides: strips, the working picture
BYTES_PER_PIXEL = {"JPEG": 2.0, "PNG": 4.5, "WEBP": 16.0, "AVIF": 12.0, "HEIF": 12.0}
"""Measured peaks of each decoder, rounded up. A JPEG is decoded small at once, unless it is progressive."""
PROGRESSIVE_BYTES_PER_PIXEL = 8.0

Part = Literal["colours", "opacity"]

logging.getLogger("PIL").setLevel(logging.INFO)  # at debug Pillow logs EXIF values, places included
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

try:
    import pi_heif
except ImportError:  # only the group `vision` brings it
    FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "AVIF")
else:
    pi_heif.register_heif_opener(thumbnails=False, aux_images=False, depth_images=False, decode_threads=1)
    FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")


@dataclass(frozen=True)
class Limits:
    """`max_memory`: bytes that decoding one picture may take. `side`: a larger picture is worked on at this many px."""

    max_bytes: int
    max_pixels: int
    max_memory: int = 200 << 20
    min_side: int = 32  # px
    side: int = WORKING_SIDE  # px
    animated: bool = False  # whether an animation's first picture is taken for a still

    @property
    def fixed_bytes(self) -> int:
        return int(FIXED_BYTES * max(1.0, (self.side / WORKING_SIDE) ** 2))


@dataclass(frozen=True)
class Photo:
    """`pixels` is at most the working side a side; `width` and `height` (px) are the upright photo's as it was sent.
    Its shape is (height, width, 3), and (height, width) where the opacity was asked for."""

    pixels: NDArray[np.uint8]
    width: int
    height: int

    @property
    def scale(self) -> float:
        """Pixels of the photo as sent for one of `pixels`."""
        return max(self.width, self.height) / int(max(self.pixels.shape))


def decode(data: bytes | bytearray, limits: Limits, part: Part = "colours", param: str = "image") -> Photo:
    """Read a still of one of FORMATS by its content, whatever its name. Raises InvalidRequest, PayloadTooLarge."""
    if not data:
        raise refusal("empty_image", "The image is empty.", param)
    if len(data) > limits.max_bytes:
        raise PayloadTooLarge(f"The image is larger than {limits.max_bytes} bytes.", code="image_bytes", param=param)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check(image, limits, param)
            if part == "opacity" and not image.has_transparency_data:
                raise refusal("no_transparency", "The image has no transparency.", param)
            return _read(image, limits.side, part)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:  # Pillow's own limit came first
        raise _too_many_pixels(limits.max_pixels, param) from exc
    except UnidentifiedImageError as exc:
        raise refusal("unsupported_image", f"The image is none of {', '.join(FORMATS)}.", param) from exc
    except MemoryError as exc:
        raise refusal("image_memory", "The image takes too much memory to decode.", param) from exc
    except UNREADABLE as exc:
        raise refusal("unreadable_image", "The image is damaged or incomplete.", param) from exc


def _check(image: Image.Image, limits: Limits, param: str) -> None:
    """By the header alone. A phone's MPO and HEIC hold companions, not an animation: their first picture counts."""
    most = min(limits.max_pixels, int((limits.max_memory - limits.fixed_bytes) / _bytes_per_pixel(image)))
    if image.width * image.height > most:
        raise _too_many_pixels(most, param)
    if min(image.size) < limits.min_side:
        raise refusal("image_too_small", f"The image is less than {limits.min_side} pixels wide or high.", param)
    if not limits.animated and image.format not in ("MPO", "HEIF") and getattr(image, "n_frames", 1) > 1:
        raise refusal("animated_image", "The image is animated; send a still.", param)


def _bytes_per_pixel(image: Image.Image) -> float:
    if image.info.get("progressive"):
        return PROGRESSIVE_BYTES_PER_PIXEL
    return BYTES_PER_PIXEL["JPEG" if image.format == "MPO" else image.format or "AVIF"]


def _read(image: Image.Image, side: int, part: Part) -> Photo:
    width, height = image.size
    colours = flat.Colours.of(image)
    share = min(1.0, side / max(width, height))  # a JPEG is decoded at a half, a quarter or an eighth at once
    image.draft(None, (max(1, int(width * share)), max(1, int(height * share))))
    image.load()
    small = _shrunk(image, colours, side, part)
    orientation = _orientation(image)
    if orientation in UPRIGHT:
        small = small.transpose(UPRIGHT[orientation])
    if orientation >= SIDEWAYS:
        width, height = height, width
    return Photo(np.array(small, dtype=np.uint8), width, height)


def _shrunk(image: Image.Image, colours: flat.Colours, side: int, part: Part) -> Image.Image:
    """At most `side` a side; strip by strip, so that no second picture of the full size exists."""
    factor = max(1, max(image.size) // side)
    mode, flatten = ("RGB", flat.rgb) if part == "colours" else ("L", flat.opacity)
    small = Image.new(mode, (-(-image.width // factor), -(-image.height // factor)))
    for top in range(0, image.height, STRIP * factor):
        strip = image.crop((0, top, image.width, min(top + STRIP * factor, image.height)))
        small.paste(flatten(strip, colours, factor), (0, top // factor))
    small.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=None)
    return small


def _orientation(image: Image.Image) -> int:
    """1 (upright) where the metadata is broken: the picture itself is still good."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except UNREADABLE:
        return 1
    return value if isinstance(value, int) and value in UPRIGHT else 1


def refusal(code: str, message: str, param: str = "image") -> InvalidRequest:
    return InvalidRequest(message, code=code, param=param)


def _too_many_pixels(most: int, param: str) -> InvalidRequest:
    return refusal("image_pixels", f"The image has more than {most} pixels, the most for its format.", param)
