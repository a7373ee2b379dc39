"""Any mode that Pillow reads → 8-bit RGB in sRGB, transparent parts over white; or how opaque it is."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_PLAIN_ALPHA = {"La": "LA", "RGBa": "RGBA"}  # premultiplied → not
_DEEPER_KEYS = {"L;2": 255 // 3, "L;4": 255 // 15}  # Pillow scales the pixels of these PNGs, and not their key
_PROFILED = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # a profile's colour space → the mode that it fits
_MAX_PROFILE_BYTES = 4 << 20


@dataclass(frozen=True)
class Colours:
    """How one file says what its numbers mean."""

    key: Any = None  # PNG's transparent colour, or a palette's alphas
    to_srgb: Any = None  # ImageCms.ImageCmsTransform, from the mode `profiled`
    profiled: str = ""

    @classmethod
    def of(cls, image: Image.Image) -> Colours:
        """Ask before the picture is loaded: what its file said of it is gone then."""
        tiles = getattr(image, "tile", ())  # of a file alone
        raw = str(tiles[0].args) if tiles else ""
        key = image.info.get("transparency")
        if isinstance(key, int):
            key *= _DEEPER_KEYS.get(raw, 1)
        elif isinstance(key, tuple) and raw.startswith("RGB;16"):
            key = tuple(level >> 8 for level in key)
        transform, mode = _transform(image.info.get("icc_profile"))
        return cls(key, transform, mode)


def rgb(part: Image.Image, colours: Colours, factor: int = 1) -> Image.Image:
    """A part of a picture, `factor` times smaller. Opacity weighs: a hidden colour does not shine through."""
    part = _eight_bits(part, colours)
    if part.has_transparency_data:
        part = _over_white(_smaller(part.convert("RGBA").convert("RGBa"), factor).convert("RGBA"))
    else:
        part = _smaller(part if part.mode in ("L", "RGB", "CMYK") else _as_rgb(part), factor)
    if colours.to_srgb is not None and part.mode == colours.profiled:
        return ImageCms.applyTransform(part, colours.to_srgb) or part
    return part.convert("RGB")


def opacity(part: Image.Image, colours: Colours, factor: int = 1) -> Image.Image:
    """Mode L: 0 is transparent, 255 opaque."""
    return _smaller(_eight_bits(part, colours).convert("RGBA").getchannel("A"), factor)


def _eight_bits(part: Image.Image, colours: Colours) -> Image.Image:
    """The same picture in a mode of 8 bits that Pillow converts well; its key with it."""
    if part.mode in _SIXTEEN_BITS:
        return _from_sixteen(part, colours.key)
    if part.mode == "F":  # levels from 0 to 255, as Pillow itself understands them
        levels = np.nan_to_num(np.asarray(part), nan=0.0, posinf=255.0, neginf=0.0)
        return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))
    if part.mode in _PLAIN_ALPHA:
        return _plain_alpha(part)
    part.info = {} if colours.key is None else {"transparency": colours.key}
    return part


def _from_sixteen(part: Image.Image, key: Any) -> Image.Image:
    """Scaled from 65,535 to 255, where Pillow would cut everything above 255 off."""
    deep = np.asarray(part).astype(np.int64).clip(0, 65535)
    grey = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if not isinstance(key, int):
        return grey
    grey.putalpha(Image.fromarray(np.where(deep == key, 0, 255).astype(np.uint8)))
    return grey


def _plain_alpha(part: Image.Image) -> Image.Image:
    if part.mode == "RGBa":
        return part.convert("RGBA")
    grey, alpha = part.getchannel(0), part.getchannel(1)  # Pillow converts no La
    return Image.merge("RGBa", (grey, grey, grey, alpha)).convert("RGBA")


def _as_rgb(part: Image.Image) -> Image.Image:
    if part.mode != "LAB":
        return part.convert("RGB")
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    found = ImageCms.profileToProfile(part, lab, srgb, outputMode="RGB")
    assert found is not None
    return found


def _over_white(part: Image.Image) -> Image.Image:
    page = Image.new("RGBA", part.size, "white")
    page.alpha_composite(part)
    return page.convert("RGB")


def _smaller(part: Image.Image, factor: int) -> Image.Image:
    return part if factor == 1 else part.reduce(factor)


def _transform(profile: object) -> tuple[Any, str]:
    """To sRGB; nothing for sRGB itself, and for a profile that is broken: the picture itself is still good."""
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= _MAX_PROFILE_BYTES:
        return None, ""
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _PROFILED.get(found.profile.xcolor_space.strip(), "")
        if not mode or "sRGB" in (found.profile.profile_description or ""):
            return None, ""
        return ImageCms.buildTransform(found, ImageCms.createProfile("sRGB"), mode, "RGB"), mode
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None, ""
