"""How much there is to read in a JSON body: its values, counted before any of it is parsed.

A parser and whoever walks what it found take time by the value, not by the byte: 32 MiB of `[],` are eleven million
lists, and take half a minute. A picture in base64 is one value.
"""

import asyncio
import codecs
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from core.errors import InvalidRequest, PayloadTooLarge

P = ParamSpec("P")
T = TypeVar("T")

MAX_BYTES = 16 << 20
"""Of a JSON body that is relayed: what reads it holds all threads for up to 2 ms a MiB (bench/holds.py)."""
MAX_VALUES = 150_000
"""Of a body that is relayed. A prompt of token ids has one for each; texts and pictures are one, however long."""
CONTROL_VALUES = 15_000
"""Of a body that is parsed on the event loop."""
HEAVY_VALUES = 5_000  # reading so many holds the loop for some milliseconds
HEAVY_BYTES = 512 << 10  # and so does so much text
SLICE = 1 << 20  # bytes counted before others get a turn
SMALL_SLICE = 64 << 10  # the same, where strings are told from the rest
_decoder = codecs.getincrementaldecoder("utf-8")
_ESCAPE = re.compile(rb"\\.", re.DOTALL).sub


async def is_heavy(body: bytes) -> bool:
    """Whether to read it off the loop. Raises PayloadTooLarge over MAX_BYTES, InvalidRequest over MAX_VALUES or for
    what is no UTF-8: a parser looks only at the fields that it is asked for, and an engine at the others."""
    if len(body) <= HEAVY_VALUES:
        _add_text(_decoder(), body, whole=True)
        return False
    if len(body) > MAX_BYTES:
        raise PayloadTooLarge(f"A JSON body has at most {MAX_BYTES} bytes.", code="body_too_large")
    most, decoder = 0, _decoder()
    for at in range(0, len(body), SLICE):
        most += _marks(body, at, at + SLICE)
        _add_text(decoder, body[at : at + SLICE], whole=at + SLICE >= len(body))
        if at:
            await asyncio.sleep(0)
    if most > MAX_VALUES:  # some may stand in texts
        count = ValueCount(MAX_VALUES)
        for at in range(0, len(body), SMALL_SLICE):
            count.add(body[at : at + SMALL_SLICE])
            await asyncio.sleep(0)
    return most > HEAVY_VALUES or len(body) > HEAVY_BYTES


async def aside(heavy: bool, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns; on a thread, which gives others their turns, where it reads a heavy body."""
    if heavy:
        return await asyncio.to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)


def _add_text(decoder: codecs.IncrementalDecoder, piece: bytes, *, whole: bool) -> None:
    try:
        decoder.decode(piece, whole)
    except UnicodeDecodeError as exc:
        raise InvalidRequest("The body is not UTF-8.", code="json_invalid") from exc


class ValueCount:
    """Commas and opening brackets outside strings, of a body that comes in pieces."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found = 0
        self._in_string = False
        self._escape = b""  # a backslash that ended the piece before

    def add(self, piece: bytes) -> None:
        """Raises InvalidRequest where there are too many."""
        piece = self._escape + piece
        cut = (len(piece) - len(piece.rstrip(b"\\"))) % 2
        self._escape = piece[len(piece) - cut :]
        parts = _ESCAPE(b"", piece[: len(piece) - cut]).split(b'"')
        self._found += sum(_marks(part, 0, len(part)) for part in parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        if self._found > self._most:
            raise InvalidRequest(f"The body holds more than {self._most} values.", code="too_many_values")


def _marks(text: bytes, start: int, end: int) -> int:
    return text.count(b",", start, end) + text.count(b"[", start, end) + text.count(b"{", start, end)
