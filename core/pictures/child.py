"""A process that decodes pictures for a service: one at a time, from stdin to stdout, within bounds of its own.

A decoder that crashes on a hostile file, takes too much memory or does not end takes this process with it, and not
the service. It ends when its stdin does, so it never outlives the service. Started by core/pictures/processes.py.
"""

import contextlib
import json
import signal
import struct
import sys
import warnings
from pathlib import Path
from typing import BinaryIO

from core import core_files
from core.errors import InvalidRequest
from core.pictures.decode import Limits, Part, decode

HEAD = struct.Struct(">QB")  # the file's length, and which part of it is asked for
LENGTH = struct.Struct(">Q")
PARTS: tuple[Part, ...] = ("colours", "opacity")
HEADROOM = 48 << 20  # bytes of address space besides: the file itself, the allocator's slack


def main() -> None:
    said, seconds = json.loads(sys.argv[1]), int(sys.argv[2])
    limits = Limits(**said)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which then closes stdin
    _bound(limits.max_memory + limits.max_bytes + HEADROOM)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := requests.read(HEAD.size):
        length, part = HEAD.unpack(head)
        data = requests.read(length)
        _alarm(seconds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a damaged picture's metadata
            _answer(answers, data, limits, PARTS[part])
        _alarm(0)


def _answer(out: BinaryIO, data: bytes, limits: Limits, part: Part) -> None:
    """A length and a JSON object, then the pixels' bytes where there are any."""
    try:
        photo = decode(data, limits, part)
    except InvalidRequest as exc:
        _send(out, {"status": exc.status, "code": exc.code, "message": exc.message})
        return
    _send(out, {"width": photo.width, "height": photo.height, "shape": photo.pixels.shape})
    out.write(photo.pixels.tobytes())
    out.flush()


def _send(out: BinaryIO, said: dict[str, object]) -> None:
    text = json.dumps(said).encode()
    out.write(LENGTH.pack(len(text)) + text)
    out.flush()


def _bound(more: int) -> None:
    """At most `more` bytes of address space above what there is now."""
    core_files.none_left()
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))


def _alarm(seconds: int) -> None:
    """The end of this process in `seconds`, wherever it is then; 0: none."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


if __name__ == "__main__":
    main()
