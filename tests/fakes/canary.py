"""A selfie that can be recognised wherever a part of it turns up: in its EXIF, its pixels and its file's bytes."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
from PIL import Image
from psycopg import sql

NAME = "canary-0815-selfie.png"
EXIF = "canary-4711-in-exif"
PATTERN = bytes((23, 199, 71, 154, 6, 231, 88, 140, 45))  # three pixels, again and again below the picture


@dataclass(frozen=True)
class Canary:
    """`data` is the file as sent; `needles` what nobody may find anywhere afterwards."""

    data: bytes
    needles: tuple[bytes, ...]

    def found_in(self, content: bytes) -> list[bytes]:
        return [needle for needle in self.needles if needle in content]

    def found_below(self, folder: Path) -> list[str]:
        """Files whose names or bytes tell of the picture."""
        return [str(file) for file in _files(folder) if self.found_in(_read(file)) or NAME in str(file)]


async def database_text(dsn: str) -> bytes:
    """Every row of every table, as text."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        query = "select table_name from information_schema.tables where table_schema = 'public'"
        names = [name for (name,) in await (await connection.execute(query)).fetchall()]
        rows = []
        for name in names:
            every = sql.SQL("select t::text from {} t").format(sql.Identifier(name))
            rows += [row for (row,) in await (await connection.execute(every)).fetchall()]
    return "\n".join(rows).encode()


def marked(picture: Image.Image) -> Canary:
    """The picture on a strip of the pattern, as a PNG with the EXIF."""
    width = picture.width
    rows = np.tile(np.frombuffer(PATTERN, dtype=np.uint8).reshape(1, 3, 3), (16, -(-width // 3), 1))[:, :width]
    whole = Image.fromarray(np.concatenate([np.asarray(picture.convert("RGB")), rows]))
    tags = Image.Exif()
    tags[0x010F] = tags[0x010E] = EXIF
    out = io.BytesIO()
    whole.save(out, "PNG", exif=tags.tobytes(), compress_level=1)
    return Canary(out.getvalue(), _needles(out.getvalue()))


def _needles(data: bytes) -> tuple[bytes, ...]:
    """The EXIF's text, four rounds of the pattern, pieces of the file; each plain, in hexadecimal and in base64."""
    middle = len(data) // 2
    plain = [EXIF.encode(), NAME.encode(), PATTERN * 4, data[middle : middle + 48], data[middle // 2 :][:48]]
    return tuple(form for piece in plain for form in (piece, piece.hex().encode(), *_base64(piece)))


def _base64(piece: bytes) -> Iterator[bytes]:
    """As it looks inside of a longer text, at each of the three places where it may begin."""
    for skipped in range(3):
        rest = piece[skipped:]
        yield base64.b64encode(rest[: len(rest) // 3 * 3])


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it is gone by now
        return b""
