"""A log of bounded size: NAME holds the newest lines, NAME.1 the ones before. `python log_file.py NAME BYTES` keeps
what comes on standard input. Standard library only."""

import contextlib
import io
import os
import sys

_CHUNK = 64 << 10


class LogFile:
    """Appends, and is set aside where a line would make it more than `most` bytes. A full disk loses lines, no more."""

    def __init__(self, path: str, most: int) -> None:
        self._path = path
        self._most = most
        self._file = -1
        self._size = 0
        self._whole = True  # its last line has ended

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._file < 0:
                self._open()
            for line in [data] if self._size + len(data) <= self._most else io.BytesIO(data):
                endless = self._size > self._most + _CHUNK
                if self._size + len(line) > self._most and (self._whole or endless):
                    self._set_aside()
                self._append(line)

    def _append(self, data: bytes) -> None:
        while data:
            written = os.write(self._file, data)
            self._size += written
            self._whole = data[written - 1 : written] == b"\n"
            data = data[written:]

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._size = os.fstat(self._file).st_size

    def _set_aside(self) -> None:
        if self._size:
            os.replace(self._path, self._path + ".1")
            os.close(self._file)
            self._file = -1
            self._open()


def keep(source: int, path: str, most: int) -> None:
    """What comes from the file descriptor, until it ends."""
    log = LogFile(path, most)
    while data := os.read(source, _CHUNK):
        log.write(data)


def copy_aside(path: str, most: int) -> None:
    """For a log that another process holds open to append: past `most` bytes it is copied to NAME.1 and emptied. What
    is written meanwhile may be lost."""
    with contextlib.suppress(OSError):
        if os.path.getsize(path) > most:
            with open(path, "rb") as old, open(path + ".1", "wb") as aside:
                while data := old.read(_CHUNK):
                    aside.write(data)
            os.truncate(path, 0)


if __name__ == "__main__":
    keep(0, sys.argv[1], int(sys.argv[2]))
