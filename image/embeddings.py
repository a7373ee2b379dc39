"""Prompt embeddings that were computed before, the least recently used dropped first. Bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


_ENTRY, _ID = 1024, 40  # bytes of one entry's objects, and of each number in its key


class Key(NamedTuple):
    ids: tuple[int, ...]
    alone: bool  # computed with no other prompt beside it: the last bits may differ


class Embeddings:
    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes; 0 keeps nothing."""
        self._capacity = capacity
        self._kept: OrderedDict[Key, torch.Tensor] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: Key) -> torch.Tensor | None:
        """One that was computed alone serves everybody."""
        for known in (Key(key.ids, alone=True), key):
            if known in self._kept:
                self.hits += 1
                self._kept.move_to_end(known)
                return self._kept[known]
        self.misses += 1
        return None

    def put(self, key: Key, embedding: torch.Tensor) -> None:
        self._drop(key)
        self._kept[key] = embedding
        self.bytes += _size(key, embedding)
        while self.bytes > self._capacity:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0

    def _drop(self, key: Key) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self.bytes -= _size(key, old)


def _size(key: Key, embedding: torch.Tensor) -> int:
    """With what Python keeps beside the numbers: a short prompt of a small model is hardly more than that."""
    return int(embedding.nbytes) + _ENTRY + _ID * len(key.ids)
