"""The floor: in code, always on, no setting removes it. Pure: text and circumstances in, a category or None out.

1. Nothing sexual about a minor, nor about anyone who may be one; where age is ambiguous above tier 0, a refusal.
2. A selfie, a reference image or a named real person makes the subject real: tier 0, and no undressing.
3. Nothing sexual about an identifiable person, nothing non-consensual.
4. A check that fails is a refusal (orchestrator/policy/store.py).
5. A refusal is recorded by hash and reason (orchestrator/runs/record.py).

Below tier 2 explicit words are refused as well: that is what the tiers mean.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
import re2

from orchestrator.policy import ages, normalise, words
from orchestrator.policy.harmless import RISKY, is_harmless
from orchestrator.policy.lexicon import (
    ADULT,
    AMBIGUOUS,
    ATTIRE,
    CLINICAL,
    EXPLICIT,
    FICTION,
    INFORMATION,
    MINOR,
    NONCONSENT,
    NUDITY,
    REAL,
    SUGGESTIVE,
    UNDRESS,
    YOUTHFUL,
)

Surface = Literal["text", "image"]
"""Whether words are wanted, or a picture. What informs in words does not excuse a picture."""

MAX_REMEMBERED = 4096  # characters
GAP = " . qzq "
"""Stands between texts that are read at once: every pattern that may end with its text may also end before a full stop,
and the word is on no list."""
SEXUAL = EXPLICIT | NUDITY | SUGGESTIVE
_RULES = (
    *("floor", "lexicon", "normalise", "words", "pieces", "harmless"),
    *("ages", "age_forms", "age_meanings", "age_words"),
)
_FULL_NAME = re2.compile(r"(by |style of |after )?\b([A-Z][a-z]+) (?:[A-Z]\. )?[A-Z][a-z]{2,}\b")
_GIVEN_NAMES = """
    James John Robert Michael William David Richard Joseph Thomas Charles Christopher Daniel Matthew Anthony Mark Steven
    Paul Andrew Joshua Kevin Brian George Edward Ryan Jacob Nicholas Eric Jonathan Alexander Benjamin Samuel Peter Harry
    Jack Oliver Noah Liam Lucas Adam Brad Tom Chris Donald Joe Mary Patricia Jennifer Linda Elizabeth Barbara Susan
    Jessica Sarah Karen Lisa Nancy Betty Sandra Margaret Ashley Kimberly Emily Donna Michelle Carol Amanda Melissa
    Deborah Stephanie Rebecca Sharon Laura Cynthia Amy Kathleen Angela Anna Emma Olivia Sophia Isabella Mia Charlotte
    Amelia Scarlett Taylor Jane Anne Maria Natalie Megan Rachel Hannah Julia Victoria Grace Alice Kate Rose Selena
"""
_GIVEN = frozenset(_GIVEN_NAMES.split())


class Scan(msgspec.Struct, frozen=True):
    """What a text means to the floor (flags), and how it reads, for the lists of a policy."""

    flags: int
    readings: tuple[normalise.Reading, ...]


@dataclass(frozen=True)
class Subject:
    """Who is in the picture: a real person (a selfie, a reference image), and how old they seem."""

    real: bool = False
    age: Literal["unknown", "adult", "ambiguous", "minor"] = "unknown"

    @property
    def flags(self) -> int:
        return (REAL if self.real else 0) | {"minor": MINOR, "ambiguous": AMBIGUOUS}.get(self.age, 0)

    @property
    def tier(self) -> int:
        """The highest tier this subject allows."""
        return 0 if self.real or self.age in ("minor", "ambiguous") else 2


@lru_cache(maxsize=1024)
def _scan(text: str, apart: str, parts: tuple[str, ...]) -> Scan:
    flags, readings = 0, []
    plain_apart = normalise.plain_form(apart)
    for plain in normalise.spellings(text):
        reading = normalise.read(plain)
        flags |= words.flags_of(reading) | ages.flags_of(plain, text, plain_apart)
        readings.append(reading)
    if parts:
        flags |= words.flags_over_seams([normalise.plain_form(part) for part in parts])
    if flags & (SEXUAL | UNDRESS) and _names_someone(text):
        flags |= REAL
    return Scan(flags, tuple(readings))


def scan(text: str, apart: str = "", parts: tuple[str, ...] = ()) -> Scan:
    """Read one text. Short ones are remembered: a conversation is sent again with every turn. Where the text is several
    `parts` that were joined, `apart` is the same with spaces between them."""
    return (_scan if len(text) <= MAX_REMEMBERED else _scan.__wrapped__)(text, apart, parts)


def glance(texts: Sequence[str], parts: Sequence[str]) -> str | None:
    """All texts put together, where nothing in them could mean anything that is RISKY: then each of them means nothing
    that is. None where something could, or where there is more than one way to read them: then each is scanned. What
    stands in a text stands in all of them together too, with nothing joined to it: GAP ends a sentence, a run of
    letters and a phrase. Only what a star hides is read in no order, so it is scanned. `parts` as in `scan`."""
    together = GAP.join(texts)
    if not together.isascii() or ages.may_state(together.lower(), together):
        return None
    if not is_harmless(together):
        plain = together.lower()
        if "*" in together or normalise.spellings(together) != [plain]:
            return None
        if words.most_of(normalise.read(plain)) & RISKY:
            return None
    return None if words.flags_over_seams([part.lower() for part in parts]) & RISKY else together


def violation(flags: int, tier: int, surface: Surface) -> str | None:
    """The category by which the floor refuses what has these flags, or None."""
    informs = surface == "text" and flags & INFORMATION and not flags & FICTION
    sexual = flags & SEXUAL or (flags & CLINICAL and not informs)
    if flags & MINOR and (sexual or flags & UNDRESS or (flags & ATTIRE and tier > 0)):
        return "sexual/minors"
    if flags & NONCONSENT and sexual:
        return "sexual/nonconsent"
    if flags & REAL and (flags & UNDRESS or (sexual and not (informs and not flags & EXPLICIT))):
        return "sexual/real_person"
    if tier > 0 and _may_be_minor(flags) and (sexual or flags & ATTIRE):
        return "sexual/ambiguous_age"
    if tier < 2 and flags & EXPLICIT:
        return "sexual/explicit"
    return None


def _may_be_minor(flags: int) -> bool:
    return bool(flags & AMBIGUOUS or (flags & YOUTHFUL and not flags & ADULT))


def _names_someone(text: str) -> bool:
    """Whether a full name stands there that is not an artist's, in whose style something is."""
    return any(not match[1] and match[2] in _GIVEN for match in _FULL_NAME.finditer(normalise.encodable(text)))


@lru_cache(maxsize=1)
def version() -> str:
    """The hash of the floor's rules: of the source text of the modules that make it, and of who knows look-alikes."""
    digest = hashlib.sha256(metadata.version("decancer-py").encode())
    for name in _RULES:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]
