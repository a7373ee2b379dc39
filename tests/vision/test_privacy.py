"""Nothing of a picture is written, logged or answered."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fakes.client import ask
from tests.vision.photos import ASTRONAUT, encoded, exif, photo
from tests.vision.test_app import ANALYZE, FACES, image

CANARY = "canary-4711"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.link", "tempfile.mkstemp", "tempfile.mkdtemp")

_written: list[str] | None = None


def _watch(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook cannot be removed: it looks only while _written is a list."""
    if _written is None or event not in FILE_EVENTS:
        return
    if event != "open" or (isinstance(args[2], int) and args[2] & WRITING):
        _written.append(f"{event} {args[0]}")


@contextmanager
def watching_files() -> Iterator[list[str]]:
    """Every file that this process opens for writing, creates or renames meanwhile."""
    global _written
    found: list[str] = []
    _written = found
    try:
        yield found
    finally:
        _written = None


sys.addaudithook(_watch)


def marked(quality: int = 95) -> bytes:
    """The astronaut with a canary in the EXIF; over a megabyte, so that it would spill if it could."""
    picture = photo(ASTRONAUT).resize((1900, 1900))
    return encoded(picture, "JPEG", quality=quality, exif=exif(make=CANARY, description=CANARY, orientation=1))


def test_the_watch_sees_files(tmp_path: Any) -> None:
    with watching_files() as written:
        (tmp_path / "x").write_text("x")
    assert written == [f"open {tmp_path / 'x'}"]


@pytest.mark.parametrize("path", [ANALYZE, FACES])
@pytest.mark.parametrize("damaged", [False, True])
async def test_an_upload_leaves_no_trace(
    worker: int, path: bytes, damaged: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    data = marked(99)
    assert len(data) > 1 << 20
    assert CANARY.encode() in data
    with caplog.at_level("DEBUG"), watching_files() as written:
        answer = await ask(worker, image(data[: len(data) // 2] if damaged else data, path))
    assert answer.status == (400 if damaged else 200)
    assert written == []
    printed = capfd.readouterr()
    for text in (caplog.text, printed.out, printed.err, answer.body.decode(), str(answer.headers)):
        assert CANARY not in text
        assert "selfie.jpg" not in text
