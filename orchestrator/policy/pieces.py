"""The texts of a request in pieces that are quick to scan: so large ones hold nobody up, and small ones cost little.

Long texts are cut between words that mean nothing, many short ones are put together with a word between them that
breaks phrases. What lies over the seams is read once more: joined with nothing between, and with a space. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from orchestrator.policy import words
from orchestrator.policy.normalise import BREAK

PIECE = 16_384
"""Characters scanned without letting others have a turn: a few milliseconds of the worst texts."""
REACH = 80  # characters on either side of a seam
_TRIES, _BACK = 50, 2_000  # places looked at for a cut, and how many characters before the end
_FEW = 10  # short texts that are neither cut nor put together
_SHORT, _MANY = 384, 24  # texts of so few characters are put together where there are so many
_SPOKEN_BY_PROTOCOL = frozenset(
    ("", "text", "input_text", "output_text", "message", "image_url", "input_image", "user")
)
"""Strings that stand between the parts of a message and are no part of what it says."""


class Piece(NamedTuple):
    """A text to scan. Where it is the ends of several `parts`, joined: the same `apart`, less closely joined."""

    text: str
    apart: str = ""
    parts: tuple[str, ...] = ()


def pieces(texts: Sequence[str]) -> Iterator[Piece]:
    """Every text whole or in pieces, then what lies over the seams between them."""
    if len(texts) == 1 and len(texts[0]) <= PIECE:
        yield Piece(texts[0])
        return
    if len(texts) <= _FEW and max(map(len, texts), default=0) <= 2 * REACH:
        yield from map(Piece, filter(None, texts))
        yield from _join([text for text in texts if text not in _SPOKEN_BY_PROTOCOL])
        return
    parts: list[str] = []

    def each() -> Iterator[Piece]:
        for text in texts:
            for part in _cut(text):
                yield Piece(part)
                if text not in _SPOKEN_BY_PROTOCOL:
                    parts.append(part)

    yield from _pack(each())
    yield from _pack(_over_seams(parts))


def _cut(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE:
        end = _place(text, start + PIECE)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _place(text: str, end: int) -> int:
    """Where to cut at or before `end`: between words that mean nothing, else between any, else there."""
    found, at = end, end
    for _ in range(_TRIES):
        at = max(text.rfind(" ", end - _BACK, at), text.rfind("\n", end - _BACK, at))
        if at < 0:
            break
        found = at if found == end else found
        around = text[at - REACH : at].split()[-2:] + text[at : at + REACH].split()[:2]
        if all(map(words.means_nothing, around)):
            return at
    return found


def _over_seams(parts: Sequence[str]) -> Iterator[Piece]:
    """The ends and beginnings that meet at the seams. Short parts lie whole between two, and all those together."""
    met: list[str] = []
    length = 0
    for part in parts:
        short = len(part) <= 2 * REACH
        met.append(part if short else _beginning(part))
        length += len(part) + 1
        if not short or length > PIECE:
            yield from _join(met)
            met, length = [_ending(part)], REACH
    yield from _join(met)


def _join(parts: Sequence[str]) -> Iterator[Piece]:
    """Parts joined with spaces, with nothing, and with nothing at every other seam: so that a word over one seam stands
    by itself. Words over several seams are found in the `parts`."""
    if len(parts) < 2:
        return
    apart = " ".join(parts)
    yield Piece(apart, BREAK.join(parts))
    yield Piece("".join(parts), apart, tuple(parts))
    if len(parts) > 2:
        yield Piece(" ".join(map("".join, zip_longest(parts[::2], parts[1::2], fillvalue=""))), apart)
        yield Piece(" ".join((parts[0], *map("".join, zip_longest(parts[1::2], parts[2::2], fillvalue="")))), apart)


def _beginning(part: str) -> str:
    cut = part[:REACH]
    return cut[: cut.rfind(" ")] if " " in cut else cut


def _ending(part: str) -> str:
    cut = part[-REACH:]
    return cut[cut.find(" ") + 1 :] if " " in cut else cut


def _pack(parts: Iterable[Piece]) -> Iterator[Piece]:
    """The first ones as they are; of very many the short ones together, for each scan has its price."""
    pack: list[Piece] = []
    length = 0
    for at, part in enumerate(parts):
        if at < _MANY or len(part.text) > _SHORT:
            yield part
            continue
        pack.append(part)
        length += len(part.text) + len(BREAK)
        if length > PIECE // 2:
            yield _together(pack)
            pack, length = [], 0
    if pack:
        yield _together(pack)


def _together(pack: Sequence[Piece]) -> Piece:
    apart = BREAK.join(part.apart for part in pack if part.apart)
    parts = tuple(each for part in pack for each in (*part.parts, BREAK) if part.parts)
    return Piece(BREAK.join(part.text for part in pack), apart, parts)
