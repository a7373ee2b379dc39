"""Pictures that a caller sends to be edited: read safely, turned upright, brought to the size asked for.

Nothing of them touches a disk, and their metadata goes no further.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from core.errors import InvalidRequest
from image.request import SIDE_MULTIPLE, Limits, Pixels, Source

_FORMATS = ("PNG", "JPEG", "WEBP")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
_OPAQUE_FROM = 128  # alpha: below it the mask asks for new paint


@dataclass(frozen=True)
class Upload:
    """Upright RGB pixels with the size of the file."""

    picture: Any  # PIL.Image.Image, RGB, or RGBA for a mask
    width: int
    height: int


def read(file: bytes, param: str, max_pixels: int) -> Upload:
    """Raises InvalidRequest that names `param`. The size is checked before anything is decoded."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(file), formats=_FORMATS) as found:
            if found.width * found.height > max_pixels:
                raise _refusal(param, "image_too_large", f"The picture has more than {max_pixels} pixels.")
            upright = ImageOps.exif_transpose(found)
            picture = upright.convert("RGBA" if param == "mask" and upright.has_transparency_data else "RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise _refusal(param, "unsupported_image", f"The picture is none of {', '.join(_FORMATS)}.") from exc
    except _UNREADABLE as exc:
        raise _refusal(param, "unreadable_image", "The picture is damaged or incomplete.") from exc
    return Upload(picture, picture.width, picture.height)


def fitting_size(upload: Upload, limits: Limits) -> tuple[int, int]:
    """The upload's own size, scaled into the limits and rounded to what the model draws."""
    scale = min(
        1.0,
        limits.max_side / max(upload.width, upload.height),
        (limits.max_pixels / (upload.width * upload.height)) ** 0.5,
    )
    low, high = -(-limits.min_side // SIDE_MULTIPLE), limits.max_side // SIDE_MULTIPLE
    across, down = (
        min(high, max(low, int(side * scale + SIDE_MULTIPLE / 2) // SIDE_MULTIPLE))
        for side in (upload.width, upload.height)
    )
    while across * down * SIDE_MULTIPLE**2 > limits.max_pixels:
        across, down = (across - 1, down) if across >= down else (across, down - 1)
    return across * SIDE_MULTIPLE, down * SIDE_MULTIPLE


def source(upload: Upload, mask: Upload | None, size: tuple[int, int], strength: float) -> Source:
    """Both at the request's size. Raises InvalidRequest for a mask that does not fit its picture."""
    from PIL import Image

    if mask is None:
        return Source((sized(upload, size),), strength)
    if (mask.width, mask.height) != (upload.width, upload.height):
        raise _refusal("mask", "invalid_mask", "The mask must have the picture's size.")
    if mask.picture.mode != "RGBA":
        raise _refusal("mask", "invalid_mask", "The mask needs transparency: transparent pixels are painted anew.")
    alpha = mask.picture.getchannel("A").resize(size, Image.Resampling.NEAREST)
    anew = alpha.point(lambda a: 0 if a >= _OPAQUE_FROM else 255)
    return Source((sized(upload, size),), strength, anew.tobytes())


def sized(upload: Upload, size: tuple[int, int]) -> Pixels:
    from PIL import Image

    rgb = upload.picture if upload.picture.size == size else upload.picture.resize(size, Image.Resampling.LANCZOS)
    return Pixels(*size, rgb.tobytes())


def _refusal(param: str, code: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code=code)
