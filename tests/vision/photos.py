"""Pictures for the tests. Photos come from scikit-image's wheel, whose code is not needed; the rest is made here."""

import importlib.util
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ASTRONAUT = "astronaut.png"  # Eileen Collins; NASA, public domain: one frontal face
FACELESS = ("coffee.png", "chelsea.png", "rocket.jpg", "retina.jpg", "hubble_deep_field.jpg", "coins.png", "page.png")


def photo_path(name: str) -> Path:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None, "the tests need scikit-image's pictures"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data" / name


def photo(name: str) -> Image.Image:
    with Image.open(photo_path(name)) as image:
        return image.convert("RGB")


def pixels(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB"))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def quadrants(width: int = 80, height: int = 60) -> Image.Image:
    """Red and green above, blue and white below: every flip and turn shows."""
    image = Image.new("RGB", (width, height), "white")
    image.paste("red", (0, 0, width // 2, height // 2))
    image.paste("lime", (width // 2, 0, width, height // 2))
    image.paste("blue", (0, height // 2, width // 2, height))
    return image


def exif(**tags: Any) -> bytes:
    """EXIF with Orientation, Make or ImageDescription."""
    numbers = {"orientation": 0x0112, "make": 0x010F, "description": 0x010E}
    data = Image.Exif()
    for name, value in tags.items():
        data[numbers[name]] = value
    return data.tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, rows: bytes = b"") -> bytes:
    """A PNG by hand: its header may claim what its data does not hold."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + chunk(b"IEND", b"")


def claiming(jpeg: bytes, width: int, height: int) -> bytes:
    """The same JPEG, its frame header (SOF0) stating another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def multipart(*fields: tuple[str, str | None, bytes], boundary: bytes = b"soundstage") -> bytes:
    """Fields as (name, file name or None, content)."""
    parts = []
    for name, filename, content in fields:
        file = f'; filename="{filename}"' if filename is not None else ""
        parts.append(f'--{boundary.decode()}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode())
        parts.append(content + b"\r\n")
    return b"".join(parts) + b"--" + boundary + b"--\r\n"
