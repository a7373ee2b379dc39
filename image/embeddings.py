"""Prompt embeddings that were computed before, the least recently used dropped first. Bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


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
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return found

    def put(self, key: Key, embedding: torch.Tensor) -> None:
        self._drop(key)
        self._kept[key] = embedding
        self.bytes += embedding.nbytes
        while self.bytes > self._capacity:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0

    def _drop(self, key: Key) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self.bytes -= old.nbytes
