"""`Idempotency-Key`: the same request again has the same key, and gets the same answer. How every service reads it, and
what a worker keeps for it."""

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import Conflict, InvalidRequest

T = TypeVar("T")

HEADER = "Idempotency-Key"
REPEATED = "x-soundstage-repeated"
"""Of an answer: its worker made, or makes, it for an earlier request with the same key."""
_IS_KEY = re.compile(r"[\x21-\x7e]{1,255}").fullmatch


def checked(given: str | None) -> str | None:
    """The key, None where none was sent. Raises InvalidRequest."""
    if given is None:
        return None
    if not _IS_KEY(given):
        raise InvalidRequest(
            f"{HEADER} is 1 to 255 visible ASCII characters.", param=HEADER, code="invalid_idempotency_key"
        )
    return given


def reused() -> Conflict:
    """What is answered to another request with the key of one that is remembered."""
    return Conflict(f"This {HEADER} was used for another request.", param=HEADER, code="idempotency_key_reused")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of what is kept: how many, their bytes together, and seconds of each."""

    most: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    value: T
    bytes: int
    timer: asyncio.TimerHandle


class Kept(Generic[T]):
    """What may be asked for again, by name; the oldest goes first. Belongs to the event loop."""

    def __init__(self, bounds: Bounds) -> None:
        self.bytes = 0
        self._bounds = bounds
        self._entries: OrderedDict[tuple[str, str], _Entry[T]] = OrderedDict()

    def get(self, name: tuple[str, str]) -> T | None:
        entry = self._entries.get(name)
        return None if entry is None else entry.value

    def put(self, name: tuple[str, str], value: T, size: int) -> None:
        """`size` in bytes; what is larger than all that may be kept is not."""
        if size > self._bounds.bytes or not self._bounds.most:
            return
        self._forget(name)
        timer = asyncio.get_running_loop().call_later(self._bounds.seconds, self._forget, name)
        self._entries[name] = _Entry(value, size, timer)
        self.bytes += size
        while len(self._entries) > self._bounds.most or self.bytes > self._bounds.bytes:
            self._forget(next(iter(self._entries)))

    def _forget(self, name: tuple[str, str]) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            entry.timer.cancel()
            self.bytes -= entry.bytes
