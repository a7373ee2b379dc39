"""Cards by the names that people rent them under, in GiB as their drivers report them."""

import re
from dataclasses import dataclass

RESERVE = 0.5
"""GiB of every card that no plan gives away: the driver, and what fragments."""
LARGEST = 192.0
SIZES = {
    "3060": 12.0,
    "t4": 15.0,
    "4080": 16.0,
    "a4000": 16.0,
    "l4": 22.5,
    "a10g": 22.5,
    "3090": 24.0,
    "4090": 24.0,
    "5090": 31.8,
    "a6000": 48.0,
    "l40s": 45.0,
    "a100": 80.0,
    "h100": 80.0,
    "h200": 141.0,
    "b200": 179.0,
}
_GIVEN = re.compile(r"(?:(\d)x)?([a-z0-9.]+?)(gb|gib)?(?:-([\d.]+))?", re.IGNORECASE)


class CardError(ValueError):
    """No card is meant by that."""


@dataclass(frozen=True)
class Card:
    """`total` and `taken` (by others, now) in GiB. A card of before 8-bit arithmetic runs 8-bit weights all the same:
    they are widened as they are used."""

    name: str
    total: float
    taken: float = 0.0

    @property
    def room(self) -> float:
        return max(0.0, self.total - self.taken - RESERVE)


def cards_of(given: str) -> list[Card]:
    """What `--gpu` says: `4090`, `2x24GB`, `8xh100`; `24GB-3.5` where 3.5 GiB of it are taken. Raises CardError."""
    match = _GIVEN.fullmatch(given.strip())
    if match is None:
        raise CardError(f"{given!r} is no card: give a name ({', '.join(SIZES)}) or a size such as 24GB")
    count, name, unit, taken = int(match[1] or 1), match[2].lower(), match[3], float(match[4] or 0)
    total = SIZES.get(name) if unit is None else None
    if total is None:
        try:
            total = float(name)
        except ValueError:
            raise CardError(f"{name!r} is no card that is known: give its size, such as 24GB") from None
    if not 1 <= count <= 8 or not 0 < total <= LARGEST or not 0 <= taken < total:
        raise CardError(f"{given!r}: 1 to 8 cards of at most {LARGEST:.0f} GiB, not all of it taken")
    return [Card(name.upper() if unit is None else "a card", total, taken)] * count
