"""Every mode that Pillow reads, and every way that a PNG says what is transparent, becomes the colours it shows."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from core.errors import InvalidRequest
from core.pictures import flat
from core.pictures.decode import Limits, decode

ORANGE, GREY, WHITE, BLACK = (200, 100, 50), (150, 150, 150), (255, 255, 255), (0, 0, 0)
HALF_ORANGE, HALF_GREY = (228, 178, 152), (202, 202, 202)  # half opaque, over white
SIZE = (64, 48)
LIMITS = Limits(max_bytes=1 << 20, max_pixels=4_000_000, min_side=1, animated=True)


def mode(name: str) -> Image.Image:
    """One colour, ORANGE where the mode has colours."""
    return Image.new("RGB", SIZE, ORANGE).convert(name)


def deep(level: int, name: str) -> Image.Image:
    order = ">u2" if name.endswith("B") else "<u2"
    return Image.frombytes(name, SIZE, np.full(SIZE[::-1], level, dtype=order).tobytes())


def palette(transparency: Any) -> Image.Image:
    image = Image.new("P", SIZE, 1)
    image.putpalette([*BLACK, *ORANGE, *GREY])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def lab() -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    found = ImageCms.profileToProfile(Image.new("RGB", SIZE, ORANGE), *profiles, outputMode="LAB")
    assert found is not None
    return found


MODES: dict[str, tuple[Image.Image, tuple[int, int, int]]] = {
    "1": (Image.new("1", SIZE, 1), WHITE),
    "1, black": (Image.new("1", SIZE, 0), BLACK),
    "L": (Image.new("L", SIZE, 150), GREY),
    "LA": (Image.new("LA", SIZE, (150, 255)), GREY),
    "LA, half": (Image.new("LA", SIZE, (150, 128)), HALF_GREY),
    "LA, hidden": (Image.new("LA", SIZE, (0, 0)), WHITE),
    "La, half": (Image.new("LA", SIZE, (150, 128)).convert("La"), HALF_GREY),
    "P": (palette(None), ORANGE),
    "P, another is transparent": (palette(0), ORANGE),
    "P, transparent by its number": (palette(1), WHITE),
    "P, transparent by its alphas": (palette(bytes((255, 128, 255))), HALF_ORANGE),
    "PA": (Image.merge("PA", (palette(None), Image.new("L", SIZE, 128))), HALF_ORANGE),
    "RGB": (mode("RGB"), ORANGE),
    "RGBA": (Image.new("RGBA", SIZE, (*ORANGE, 128)), HALF_ORANGE),
    "RGBA, hidden": (Image.new("RGBA", SIZE, (*ORANGE, 0)), WHITE),
    "RGBa": (Image.new("RGBA", SIZE, (*ORANGE, 128)).convert("RGBa"), HALF_ORANGE),
    "RGBX": (Image.new("RGBX", SIZE, (*ORANGE, 0)), ORANGE),
    "CMYK": (mode("CMYK"), ORANGE),
    "YCbCr": (mode("YCbCr"), ORANGE),
    "LAB": (lab(), ORANGE),
    "HSV": (mode("HSV"), ORANGE),
    "I": (Image.new("I", SIZE, 150 * 257), GREY),
    "I, white": (Image.new("I", SIZE, 65535), WHITE),
    "I, beyond": (Image.new("I", SIZE, 2**31 - 1), WHITE),
    "I, below": (Image.new("I", SIZE, -5), BLACK),
    "F": (Image.new("F", SIZE, 150.2), GREY),
    "F, infinite": (Image.new("F", SIZE, float("inf")), WHITE),
    "F, no number": (Image.new("F", SIZE, float("nan")), BLACK),
    **{name: (deep(150 * 257, name), GREY) for name in ("I;16", "I;16L", "I;16B", "I;16N")},
}


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("name", MODES)
def test_every_mode_shows_its_colour(name: str, factor: int) -> None:
    image, colour = MODES[name]
    image = image.copy()
    shown = flat.rgb(image, flat.Colours.of(image), factor)
    assert (shown.mode, shown.size) == ("RGB", (SIZE[0] // factor, SIZE[1] // factor))
    assert apart(np.asarray(shown), colour) <= 3


def test_no_mode_of_pillows_is_left_out() -> None:
    tried = {image.mode for image, _ in MODES.values()}
    assert set(Image.MODES) <= tried


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(depth: int, kind: int, row: bytes, key: bytes = b"") -> bytes:
    """One row for all of 64 × 48 pixels; `key` is the transparent colour."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *SIZE, depth, kind, 0, 0, 0))
    colours = chunk(b"PLTE", bytes((*BLACK, *ORANGE))) if kind == 3 else b""
    clear = chunk(b"tRNS", key) if key else b""
    rows = chunk(b"IDAT", zlib.compress((b"\0" + row) * SIZE[1]))
    return b"\x89PNG\r\n\x1a\n" + head + colours + clear + rows + chunk(b"IEND", b"")


def u16(*levels: int) -> bytes:
    return struct.pack(f">{len(levels)}H", *levels)


PNGS = {
    "1 bit": (png(1, 0, b"\xff" * 8), WHITE),
    "1 bit, transparent black": (png(1, 0, bytes(8), u16(0)), WHITE),
    "2 bits": (png(2, 0, b"\x55" * 16), (85, 85, 85)),
    "2 bits, transparent": (png(2, 0, b"\x55" * 16, u16(1)), WHITE),
    "4 bits, transparent": (png(4, 0, b"\x55" * 32, u16(5)), WHITE),
    "4 bits, another is transparent": (png(4, 0, b"\x55" * 32, u16(6)), (85, 85, 85)),
    "8 bits, transparent": (png(8, 0, b"\x55" * 64, u16(0x55)), WHITE),
    "16 bits": (png(16, 0, u16(150 * 257) * 64), GREY),
    "16 bits, dark": (png(16, 0, u16(5 * 257) * 64), (5, 5, 5)),
    "16 bits, transparent": (png(16, 0, u16(300) * 64, u16(300)), WHITE),
    "16 bits with alpha": (png(16, 4, u16(150 * 257, 32896) * 64), HALF_GREY),
    "8 bits of colour, transparent": (png(8, 2, bytes(ORANGE) * 64, u16(*ORANGE)), WHITE),
    "16 bits of colour": (png(16, 2, u16(*(c * 257 for c in ORANGE)) * 64), ORANGE),
    "16 bits of colour, transparent": (
        png(16, 2, u16(*(c * 257 for c in ORANGE)) * 64, u16(*(c * 257 for c in ORANGE))),
        WHITE,
    ),
    "16 bits of colour with alpha": (png(16, 6, u16(*(c * 257 for c in ORANGE), 32896) * 64), HALF_ORANGE),
    "a palette": (png(8, 3, b"\1" * 64), ORANGE),
    "a palette with alphas": (png(8, 3, b"\1" * 64, bytes((255, 128))), HALF_ORANGE),
}


@pytest.mark.parametrize("name", PNGS)
def test_every_depth_of_png_shows_its_colour(name: str) -> None:
    file, colour = PNGS[name]
    assert apart(decode(file, LIMITS).pixels, colour) <= 3


def saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


ANIMATION: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", SIZE, BLACK)] * 2}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_of_an_animation_the_first_picture_counts(kind: str) -> None:
    photo = decode(saved(mode("RGB"), kind, **ANIMATION, quality=95), LIMITS)
    assert apart(photo.pixels, ORANGE) <= 8


def test_a_jpeg_in_four_inks_is_not_inverted() -> None:
    assert apart(decode(saved(mode("CMYK"), "JPEG", quality=95), LIMITS).pixels, ORANGE) <= 4


def wide() -> bytes:
    """An sRGB profile whose red and green change places: a picture that is read right shows them changed back."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(raw[at : at + 4]): at for at in range(132, 132 + 12 * struct.unpack(">I", raw[128:132])[0], 12)}
    red, green = (raw[tags[name] + 4 : tags[name] + 12] for name in (b"rXYZ", b"gXYZ"))
    raw[tags[b"rXYZ"] + 4 : tags[b"rXYZ"] + 12], raw[tags[b"gXYZ"] + 4 : tags[b"gXYZ"] + 12] = green, red
    return bytes(raw).replace("sRGB".encode("utf-16-be"), "turn".encode("utf-16-be"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_profile_is_followed_to_srgb(kind: str) -> None:
    photo = decode(saved(mode("RGB"), kind, icc_profile=wide(), quality=95), LIMITS)
    assert apart(photo.pixels, (100, 200, 50)) <= 8


@pytest.mark.parametrize("profile", [bytes(500), b"junk" * 100, wide()[:200], wide().replace(b"RGB ", b"CMYK", 1)])
def test_a_profile_that_is_none_is_left_aside(profile: bytes) -> None:
    assert apart(decode(saved(mode("RGB"), "PNG", icc_profile=profile), LIMITS).pixels, ORANGE) <= 3


OPACITIES = {
    "RGBA": (saved(Image.new("RGBA", SIZE, (0, 0, 0, 77)), "PNG"), 77),
    "LA": (saved(Image.new("LA", SIZE, (0, 77)), "PNG"), 77),
    "a palette": (png(8, 3, b"\1" * 64, bytes((255, 77))), 77),
    "a key": (png(8, 2, bytes(ORANGE) * 64, u16(*ORANGE)), 0),
    "a key of 16 bits": (png(16, 0, u16(300) * 64, u16(300)), 0),
    "another key of 16 bits": (png(16, 0, u16(300) * 64, u16(301)), 255),
    "webp": (saved(Image.new("RGBA", SIZE, (0, 0, 0, 77)), "WEBP", lossless=True), 77),
}


@pytest.mark.parametrize("name", OPACITIES)
def test_how_opaque_a_mask_is(name: str) -> None:
    file, level = OPACITIES[name]
    mask = decode(file, LIMITS, "opacity")
    assert (mask.pixels.shape, mask.width, mask.height) == ((48, 64), 64, 48)
    assert set(np.unique(mask.pixels).tolist()) == {level}


def test_a_mask_without_transparency_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(saved(mode("RGB"), "PNG"), LIMITS, "opacity", "mask")
    assert (refused.value.code, refused.value.param) == ("no_transparency", "mask")


def apart(pixels: Any, colour: tuple[int, int, int]) -> int:
    """The largest difference of any level of any pixel."""
    return int(np.abs(pixels.astype(int) - colour).max())
