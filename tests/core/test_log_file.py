"""A log file is bounded, whatever is written to it and in whatever pieces."""

import random
from pathlib import Path

import pytest

from core.process.log_file import LogFile, copy_aside

MOST = 500


def kept(path: Path) -> bytes:
    older = path.with_name("log.1")
    return (older.read_bytes() if older.exists() else b"") + path.read_bytes()


@pytest.mark.parametrize("piece", [1, 7, 100, 499, 500, 501, 5000])
def test_lines_stay_whole_and_the_newest_are_kept(piece: int, tmp_path: Path) -> None:
    chosen = random.Random(piece)
    text = b"".join(b"%04d %s\n" % (i, b"x" * chosen.randrange(60)) for i in range(400))
    log = LogFile(str(tmp_path / "log"), MOST)
    for at in range(0, len(text), piece):
        log.write(text[at : at + piece])
    assert text.endswith(kept(tmp_path / "log"))
    for name in ("log", "log.1"):
        content = (tmp_path / name).read_bytes()
        assert len(content) <= MOST + 70
        assert content.endswith(b"\n")
        assert content[4:5] == b" ", "it begins with a line"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_line_without_an_end_is_bounded_too(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "log"), MOST)
    for _ in range(10):
        log.write(b"x" * (64 << 10))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 4 * (64 << 10)


def test_what_a_start_finds_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n" * 120)
    log = LogFile(str(path), MOST)
    log.write(b"new line that does not fit\n")
    assert (path.read_bytes(), path.with_name("log.1").read_bytes()) == (
        b"new line that does not fit\n",
        b"old\n" * 120,
    )


def test_a_folder_that_is_gone_ends_nobody(tmp_path: Path) -> None:
    LogFile(str(tmp_path / "gone" / "log"), MOST).write(b"lost\n")


def test_a_log_that_another_holds_open_is_copied_and_emptied(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab", buffering=0) as theirs:
        theirs.write(b"a" * MOST)
        copy_aside(str(path), MOST)
        assert path.stat().st_size == MOST
        theirs.write(b"b")
        copy_aside(str(path), MOST)
        theirs.write(b"c")
    assert (path.read_bytes(), path.with_name("log.1").read_bytes()) == (b"c", b"a" * MOST + b"b")
