"""Reading pictures: what is refused and why, and what odd files become."""

import contextlib
import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.errors import InvalidRequest, PayloadTooLarge
from core.pictures.decode import WORKING_SIDE, Limits, decode
from tests.vision.photos import chunk, claiming, encoded, exif, png, quadrants

LIMITS = Limits(max_bytes=1 << 20, max_pixels=16_000_000)
PICTURE = quadrants()
JPEG, PNG, WEBP = encoded(PICTURE, "JPEG", quality=95), encoded(PICTURE), encoded(PICTURE, "WEBP", lossless=True)
FRAMES = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
ANIMATED: dict[str, Any] = {"save_all": True, "append_images": FRAMES[1:]}

REFUSED = {
    "nothing": (b"", "empty_image"),
    "text": (b"not a picture", "unsupported_image"),
    "html": (b"<html><img src=x></html>", "unsupported_image"),
    "zeros": (bytes(5000), "unsupported_image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_image"),
    "gif": (encoded(PICTURE, "GIF"), "unsupported_image"),
    "bmp": (encoded(PICTURE, "BMP"), "unsupported_image"),
    "tiff": (encoded(PICTURE, "TIFF"), "unsupported_image"),
    "pdf": (b"%PDF-1.7\n", "unsupported_image"),
    "jpeg magic alone": (b"\xff\xd8\xff\xe0" + b"junk" * 50, "unreadable_image"),
    "png magic alone": (b"\x89PNG\r\n\x1a\n", "unsupported_image"),
    "webp magic alone": (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "unreadable_image"),
    "half a jpeg": (JPEG[: len(JPEG) * 2 // 3], "unreadable_image"),
    "half a png": (PNG[: len(PNG) // 2], "unreadable_image"),
    "half a webp": (WEBP[: len(WEBP) // 2], "unreadable_image"),
    "png without rows": (png(64, 64), "unreadable_image"),
    "png with a wrong checksum": (PNG.replace(b"IHDR", b"IHDR", 1)[:29] + b"\0\0\0\0" + PNG[33:], "unsupported_image"),
    "png whose text is a bomb": (
        png(64, 64, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 << 20))), rows=bytes(64 * 193)),
        "unreadable_image",
    ),
    "png of 2.5 gigapixels": (png(50_000, 50_000), "image_pixels"),
    "png of 100 megapixels": (png(10_000, 10_000), "image_pixels"),
    "png of 25 megapixels": (png(5_000, 5_000), "image_pixels"),
    "png a pixel high and a kilometre wide": (png(2**31 - 1, 1), "image_pixels"),
    "png without area": (png(0, 100), "unsupported_image"),
    "jpeg claiming 4.2 gigapixels": (claiming(JPEG, 65_000, 65_000), "image_pixels"),
    "animated png": (encoded(FRAMES[0], "PNG", **ANIMATED), "animated_image"),
    "animated webp": (encoded(FRAMES[0], "WEBP", **ANIMATED), "animated_image"),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "image_too_small"),
    "a line": (encoded(Image.new("RGB", (500, 31))), "image_too_small"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_a_reason(name: str) -> None:
    data, code = REFUSED[name]
    with pytest.raises(InvalidRequest) as caught:
        decode(data, LIMITS)
    assert (caught.value.code, caught.value.param, caught.value.status) == (code, "image", 400)


def test_refuses_too_many_bytes_before_looking_at_them() -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        decode(PNG + bytes(LIMITS.max_bytes), LIMITS)
    assert (caught.value.code, caught.value.status) == ("image_bytes", 413)


def test_a_bomb_is_refused_before_it_costs_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            decode(png(4_001, 4_001, rows=bytes(4_001 * (3 * 4_001 + 1))), LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 60 << 20  # the rows made here, and no more
    finally:
        tracemalloc.stop()


def palette_with_transparency() -> bytes:
    image = PICTURE.quantize(4)
    return encoded(image, transparency=image.getpixel((60, 45)))


def mpo() -> bytes:
    return encoded(PICTURE, "MPO", save_all=True, append_images=[FRAMES[0]], quality=95)


def grey16() -> bytes:
    return encoded(Image.fromarray(np.full((60, 80), 0x8000, dtype=np.uint16)))


HANDLED = {
    "jpeg": (JPEG, (255, 0, 0)),
    "progressive jpeg": (encoded(PICTURE, "JPEG", progressive=True, quality=95), (255, 0, 0)),
    "png": (PNG, (255, 0, 0)),
    "webp": (WEBP, (255, 0, 0)),
    "a phone's jpeg with companions": (mpo(), (255, 0, 0)),
    "cmyk jpeg": (encoded(PICTURE.convert("CMYK"), "JPEG", quality=95), (255, 0, 0)),
    "grey jpeg": (encoded(PICTURE.convert("L"), "JPEG"), (76, 76, 76)),
    "16-bit grey png": (grey16(), (128, 128, 128)),
    "1-bit png": (encoded(Image.new("1", (80, 60), 1)), (255, 255, 255)),
    "palette png": (encoded(PICTURE.quantize(4)), (255, 0, 0)),
    "palette png, white transparent": (palette_with_transparency(), (255, 0, 0)),
    "grey png with alpha": (encoded(Image.new("LA", (80, 60), (90, 255))), (90, 90, 90)),
    "transparent png shows white": (encoded(Image.new("RGBA", (80, 60), (9, 9, 9, 0))), (255, 255, 255)),
    "half transparent png": (encoded(Image.new("RGBA", (80, 60), (0, 0, 0, 128))), (127, 127, 127)),
    "jpeg with a profile of 200 kB": (encoded(PICTURE, "JPEG", icc_profile=bytes(200_000), quality=95), (255, 0, 0)),
    "jpeg followed by junk": (JPEG + b"<script>" * 100, (255, 0, 0)),
    "jpeg whose exif is not one": (encoded(PICTURE, "JPEG", exif=b"Exif\0\0junk", quality=95), (255, 0, 0)),
}


@pytest.mark.parametrize("name", HANDLED)
def test_reads_odd_files(name: str) -> None:
    data, first_pixel = HANDLED[name]
    photo = decode(data, LIMITS)
    assert (photo.width, photo.height, photo.scale) == (80, 60, 1)
    assert photo.pixels.shape == (60, 80, 3)
    assert photo.pixels.dtype == np.uint8
    assert np.abs(photo.pixels[3, 3].astype(int) - first_pixel).max() <= 6


TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_camera_gives_an_upright_photo(kind: str, orientation: int) -> None:
    turn = TURNS[orientation]
    stored = PICTURE if turn is None else PICTURE.transpose(turn)  # as the sensor saw it
    photo = decode(encoded(stored, kind, exif=exif(orientation=orientation)), LIMITS)
    assert (photo.width, photo.height) == PICTURE.size
    middle = photo.pixels[15:50:30, 20:70:40].reshape(4, 3).astype(int)
    assert np.abs(middle - [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]).max() <= 12


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(value: int) -> None:
    assert decode(encoded(PICTURE, "JPEG", exif=exif(orientation=value)), LIMITS).pixels.shape == (60, 80, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_large_photo_is_worked_on_small_and_keeps_its_size(kind: str, mode: str) -> None:
    large = quadrants(2400, 1800).convert(mode)
    photo = decode(encoded(large, kind, exif=exif(orientation=6)), LIMITS)
    assert (photo.width, photo.height) == (1800, 2400)
    assert photo.pixels.shape == (WORKING_SIDE, WORKING_SIDE * 3 // 4, 3)
    assert photo.scale == pytest.approx(2400 / WORKING_SIDE)


def test_any_cut_of_a_file_is_read_or_refused() -> None:
    for data in (JPEG, PNG, WEBP, encoded(PICTURE, "JPEG", exif=exif(make="x" * 50, orientation=6))):
        for end in range(0, len(data), 7):
            _read_or_refuse(data[:end])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged EXIF
def test_any_damage_is_read_or_refused() -> None:
    random = np.random.default_rng(1)
    for data in (JPEG, PNG, WEBP, encoded(PICTURE, "JPEG", exif=exif(make="x" * 50, orientation=6))):
        for _ in range(150):
            damaged = bytearray(data)
            for at in random.integers(0, len(data), 4):
                damaged[at] = random.integers(0, 256)
            _read_or_refuse(bytes(damaged))


def _read_or_refuse(data: bytes) -> None:
    with contextlib.suppress(InvalidRequest):  # and nothing else
        assert decode(data, LIMITS).pixels.ndim == 3


def test_metadata_larger_than_the_picture_is_dropped() -> None:
    text = chunk(b"tEXt", b"Comment\0" + b"x" * 500_000)
    rows = b"".join(b"\0" + struct.pack("3B", 10, 20, 30) * 64 for _ in range(64))
    assert decode(png(64, 64, text, rows=rows), LIMITS).pixels[0, 0].tolist() == [10, 20, 30]


def test_the_same_pixels_whatever_the_container() -> None:
    with Image.open(io.BytesIO(PNG)) as image:
        assert np.array_equal(decode(PNG, LIMITS).pixels, np.asarray(image))
    assert np.array_equal(decode(WEBP, LIMITS).pixels, decode(PNG, LIMITS).pixels)
