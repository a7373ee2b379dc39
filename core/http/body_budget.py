"""How many bytes of request bodies a process holds at once.

Only large bodies count: small ones are bounded by the number of requests, and are never refused because others sent
large ones.
"""

from collections import Counter
from typing import Self

from core.errors import Overloaded, Unavailable

SMALL_BODY = 64 << 10  # bytes; a body up to this size is not counted


class BodyBudget:
    """Bytes of large bodies, in all and by the key that sent them. One key gets at most half of all."""

    def __init__(self, most: int, largest: int) -> None:
        """`largest`: the largest body that is accepted, which always fits where nothing else is held."""
        self._most = max(most, largest)
        self._most_of_a_key = max(most // 2, largest)
        self._by_key: Counter[str] = Counter()
        self.held = 0

    def share(self, key: str | None) -> "BodyShare":
        """What one request of this key holds. Without a key only the bound for all counts."""
        return BodyShare(self, key)

    def take(self, key: str | None, size: int) -> None:
        if key is not None and self._by_key[key] + size > self._most_of_a_key:
            text = f"Requests of this key hold {self._by_key[key]} bytes of bodies; {self._most_of_a_key} is the most."
            raise Overloaded(text, code="too_many_body_bytes", retry_after=1)
        if self.held + size > self._most:
            text = "The server holds as many bytes of request bodies as it may."
            raise Unavailable(text, code="too_many_body_bytes", retry_after=1)
        self.held += size
        if key is not None:
            self._by_key[key] += size

    def give_back(self, key: str | None, size: int) -> None:
        self.held -= size
        if key is not None:
            self._by_key[key] -= size
            if not self._by_key[key]:
                del self._by_key[key]


class BodyShare:
    """The bytes that one request holds; given back when the block has ended."""

    def __init__(self, budget: BodyBudget, key: str | None) -> None:
        self._budget = budget
        self._key = key
        self._taken = 0

    def reach(self, size: int) -> None:
        """Hold `size` bytes in all. Raises Overloaded for the key's bound, Unavailable for that of all."""
        more = size - self._taken
        if size > SMALL_BODY and more > 0:
            self._budget.take(self._key, more)
            self._taken = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._taken:
            self._budget.give_back(self._key, self._taken)
            self._taken = 0
