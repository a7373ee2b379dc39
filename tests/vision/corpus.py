"""Hostile and odd files, made here: name → (bytes, the code of the refusal or None where the picture is read).

python -m tests.vision.corpus [small] [large]      each file's outcome, peak memory and CPU time, as JSON lines
"""

import functools
import json
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.errors import InvalidRequest, PayloadTooLarge
from core.pictures.decode import Limits, decode
from tests.vision import heic
from tests.vision.photos import chunk, claiming, encoded, exif, png, quadrants

LIMITS = Limits(max_bytes=15 << 20, max_pixels=25_000_000)
PICTURE = quadrants()
FRAMES = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
ANIMATED: dict[str, Any] = {"save_all": True, "append_images": FRAMES[1:]}
JPEG, PNG, WEBP, AVIF = (encoded(PICTURE, kind) for kind in ("JPEG", "PNG", "WEBP", "AVIF"))
Case = tuple[str, bytes, str | None]
UNREADABLE, UNSUPPORTED, PIXELS = "unreadable_image", "unsupported_image", "image_pixels"


@functools.cache
def small() -> tuple[Case, ...]:
    parts = (_no_pictures, _cut_off, _bombs, _animated, _odd, _metadata, _high_efficiency)
    return tuple(case for part in parts for case in part())


def _no_pictures() -> Iterator[Case]:
    yield "nothing", b"", "empty_image"
    yield "zeros", bytes(5000), UNSUPPORTED
    yield "a page", b"<html><img src=x></html>", UNSUPPORTED
    yield (
        "a drawing",
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="x"/></svg>',
        UNSUPPORTED,
    )
    yield "a document", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", UNSUPPORTED
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", UNSUPPORTED
    yield "an archive", b"PK\x03\x04" + bytes(200), UNSUPPORTED
    yield "a program", b"\x7fELF" + bytes(200), UNSUPPORTED
    yield "noise", np.random.default_rng(1).bytes(50_000), UNSUPPORTED
    for kind in ("GIF", "BMP", "TIFF", "ICO", "TGA", "PPM"):
        yield f"another format: {kind.lower()}", encoded(PICTURE, kind), UNSUPPORTED


def _cut_off() -> Iterator[Case]:
    for name, data in (("jpeg", JPEG), ("png", PNG), ("webp", WEBP), ("heic", heic.QUADRANTS)):
        yield f"half a {name}", data[: len(data) * 2 // 3], UNREADABLE
    yield "half an avif", AVIF[: len(AVIF) * 2 // 3], UNSUPPORTED
    yield "a jpeg's start alone", b"\xff\xd8\xff\xe0" + b"junk" * 50, UNREADABLE
    yield "a png's start alone", b"\x89PNG\r\n\x1a\n", UNSUPPORTED
    yield "a webp's start alone", b"RIFF\x00\x00\x00\x00WEBPVP8 ", UNREADABLE
    yield "an avif's start alone", AVIF[:40], UNSUPPORTED
    yield "a heic's start alone", heic.QUADRANTS[:40], UNSUPPORTED
    yield "a png without rows", png(64, 64), UNREADABLE
    yield "a png with a wrong checksum", PNG[:29] + b"\0\0\0\0" + PNG[33:], UNSUPPORTED


def _bombs() -> Iterator[Case]:
    yield "2.5 gigapixels", png(50_000, 50_000), PIXELS
    yield "a line of 2 gigapixels", png(2**31 - 1, 1), PIXELS
    yield "no area", png(0, 100), UNSUPPORTED
    yield "a jpeg claiming 4 gigapixels", claiming(JPEG, 65_000, 65_000), PIXELS
    yield "a jpeg claiming 24 megapixels", claiming(JPEG, 6000, 4000), None  # grey below
    swelling = zlib.compress(bytes(64 << 20), 1)
    rows = bytes(64 * 193)
    yield "text that swells to 64 MB", png(64, 64, chunk(b"zTXt", b"Comment\0\0" + swelling), rows=rows), UNREADABLE
    yield "a profile that swells to 64 MB", png(64, 64, chunk(b"iCCP", b"x\0\0" + swelling), rows=rows), UNREADABLE
    yield "rows that swell to 64 MB", png(64, 64, chunk(b"IDAT", swelling)), None
    yield "a hundred thousand chunks", png(64, 64, chunk(b"tEXt", b"a\0b") * 100_000, rows=rows), None


def large() -> Iterator[Case]:
    """The most that is taken, in each format; and more than that where the format needs more memory."""
    plain = Image.new("RGB", (5000, 5000), (120, 130, 140))
    yield "25 megapixels: jpeg", encoded(plain, "JPEG"), None
    yield "25 megapixels: png", encoded(plain, "PNG", compress_level=1), None
    yield "25 megapixels: transparent png", encoded(plain.convert("RGBA"), "PNG", compress_level=1), None
    yield "25 megapixels: palette png", encoded(plain.quantize(8), "PNG", transparency=0), None
    yield "25 megapixels: progressive jpeg", encoded(plain, "JPEG", progressive=True), PIXELS
    yield "20 megapixels: progressive jpeg", encoded(plain.crop((0, 0, 4900, 4200)), "JPEG", progressive=True), None
    yield (
        "20 megapixels: progressive cmyk",
        encoded(plain.crop((0, 0, 4900, 4200)).convert("CMYK"), "JPEG", progressive=True),
        None,
    )
    grey = Image.fromarray(np.full((5000, 5000), 0x8000, dtype=np.uint16))
    yield "25 megapixels: 16-bit png", encoded(grey, "PNG", compress_level=1), None
    yield "10 megapixels: webp", encoded(plain.crop((0, 0, 3200, 3200)), "WEBP", method=0), None
    yield "25 megapixels: webp", encoded(plain, "WEBP", method=0), PIXELS
    yield "13 megapixels: avif", encoded(plain.crop((0, 0, 3600, 3600)), "AVIF", speed=10), None
    yield "avif claiming 25 megapixels", sized(AVIF, 5000, 5000), PIXELS
    yield "16000 x 40", encoded(plain.resize((16_000, 40)), "PNG"), None


def _animated() -> Iterator[Case]:
    for kind in ("PNG", "WEBP", "AVIF"):
        yield f"animated {kind.lower()}", encoded(FRAMES[0], kind, **ANIMATED), "animated_image"
    yield "a phone's jpeg with companions", encoded(PICTURE, "MPO", save_all=True, append_images=[FRAMES[0]]), None


def _odd() -> Iterator[Case]:
    yield "one pixel", encoded(Image.new("RGB", (1, 1))), "image_too_small"
    yield "a line", encoded(Image.new("RGB", (500, 31))), "image_too_small"
    yield "cmyk", encoded(PICTURE.convert("CMYK"), "JPEG"), None
    yield "progressive", encoded(PICTURE, "JPEG", progressive=True), None
    yield "16-bit grey", encoded(Image.fromarray(np.full((60, 80), 0x8000, dtype=np.uint16))), None
    yield "1 bit", encoded(Image.new("1", (80, 60), 1)), None
    yield "a palette with transparency", encoded(PICTURE.quantize(4), transparency=1), None
    yield "followed by junk", JPEG + b"<script>" * 100, None
    yield "a jpeg that says it is a png", JPEG, None
    yield "a jpeg inside a jpeg", JPEG + JPEG, None


def _metadata() -> Iterator[Case]:
    yield "exif of 60 kB", encoded(PICTURE, "JPEG", exif=exif(description="x" * 60_000)), None
    yield "exif that is none", encoded(PICTURE, "JPEG", exif=b"Exif\0\0junk"), None
    yield "a profile of 4 MB", encoded(PICTURE, "JPEG", icc_profile=bytes(4 << 20)), None
    yield "text of 900 kB", png(64, 64, chunk(b"tEXt", b"C\0" + b"x" * 900_000), rows=bytes(64 * 193)), None
    loop = bytearray(exif(orientation=6, make="x" * 50))
    loop[-4:] = struct.pack("<I", 8)  # the next directory is this one
    yield "exif that points at itself", encoded(PICTURE, "JPEG", exif=bytes(loop)), None
    yield "exif in a png", encoded(PICTURE, exif=exif(orientation=8)), None


def _high_efficiency() -> Iterator[Case]:
    yield "heic", heic.QUADRANTS, None
    yield "heic on its side", heic.TURNED, None
    yield "a burst of heic", heic.BURST, None
    yield "36 megapixels of heic said to be 80 x 60", heic.LIAR, UNREADABLE
    yield "heic claiming a gigapixel", sized(heic.QUADRANTS, 32_000, 32_000), UNREADABLE
    yield "heic claiming 12 megapixels", sized(heic.QUADRANTS, 4000, 3000), UNREADABLE
    yield "heic claiming nothing", sized(heic.QUADRANTS, 0, 0), UNSUPPORTED
    yield "avif claiming a gigapixel", sized(AVIF, 32_000, 32_000), UNSUPPORTED
    yield "avif claiming 12 megapixels", sized(AVIF, 4000, 3000), None


def sized(file: bytes, width: int, height: int) -> bytes:
    """A HEIC or AVIF whose boxes state another size."""
    at = file.find(b"ispe")
    while at >= 0:
        file = file[: at + 8] + struct.pack(">II", width, height) + file[at + 16 :]
        at = file.find(b"ispe", at + 4)
    return file


def outcome(data: bytes) -> str | None:
    """The code of the refusal, or None."""
    try:
        decode(data, LIMITS)
    except (InvalidRequest, PayloadTooLarge) as exc:
        return exc.code
    return None


def peak_memory(*, reset: bool = False) -> int:
    """Bytes that this process held at most since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    chosen: dict[str, Callable[[], Iterable[Case]]] = {"small": small, "large": large}
    for name, data, _ in (case for part in sys.argv[1:] or chosen for case in chosen[part]()):
        before, started = peak_memory(reset=True), time.process_time()
        code = outcome(data)
        found = {"name": name, "code": code, "bytes": len(data), "cpu_seconds": round(time.process_time() - started, 3)}
        sys.stdout.write(json.dumps({**found, "peak_mb": round((peak_memory() - before) / 2**20, 1)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
