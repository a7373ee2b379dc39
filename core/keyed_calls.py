"""Calls with an `Idempotency-Key`, as a worker remembers them: those that run now, and those that were answered."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from core.http import idempotency

Name = tuple[str, str]
"""The key, and what it is a key of: a path, a tenant."""


class Call(Protocol):
    @property
    def sha256(self) -> str:
        """Of all that it asks for."""


C = TypeVar("C", bound=Call)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of the answered calls: how many, their bytes together, and seconds of each. The oldest goes first."""

    most: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Entry(Generic[C]):
    call: C
    bytes: int
    timer: asyncio.TimerHandle


class KeyedCalls(Generic[C]):
    """In memory alone. Belongs to the event loop."""

    def __init__(self, bounds: Bounds) -> None:
        self.running: dict[Name, C] = {}
        self.bytes = 0
        self._bounds = bounds
        self._answered: OrderedDict[Name, _Entry[C]] = OrderedDict()

    def find(self, name: Name, sha256: str) -> C | None:
        """The call that runs under this name, else the one that was answered. Raises Conflict where it was another."""
        call = self.running.get(name) or self.answered(name)
        if call is not None and call.sha256 != sha256:
            raise idempotency.reused()
        return call

    def answered(self, name: Name) -> C | None:
        entry = self._answered.get(name)
        return None if entry is None else entry.call

    def end(self, name: Name, call: C) -> None:
        """It runs no more."""
        if self.running.get(name) is call:
            del self.running[name]

    def keep(self, name: Name, call: C, size: int) -> None:
        """`size` in bytes; what is larger than all that may be kept is not."""
        if size > self._bounds.bytes or not self._bounds.most:
            return
        self._forget(name)
        timer = asyncio.get_running_loop().call_later(self._bounds.seconds, self._forget, name)
        self._answered[name] = _Entry(call, size, timer)
        self.bytes += size
        while len(self._answered) > self._bounds.most or self.bytes > self._bounds.bytes:
            self._forget(next(iter(self._answered)))

    def _forget(self, name: Name) -> None:
        entry = self._answered.pop(name, None)
        if entry is not None:
            entry.timer.cancel()
            self.bytes -= entry.bytes
