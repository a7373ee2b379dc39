"""The floor: in code, always on, no setting removes it. Pure: text and circumstances in, a category or None out.

1. Nothing sexual about a minor, nor about anyone who may be one; where age is ambiguous above tier 0, a refusal.
2. A selfie, a reference image or a named real person makes the subject real: tier 0, and no undressing.
3. Nothing sexual about an identifiable person, nothing non-consensual.
4. A check that fails is a refusal (orchestrator/policy_store.py).
5. A refusal is recorded by hash and reason (orchestrator/runs.py).

Below tier 2 explicit words are refused as well: that is what the tiers mean.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_
from pathlib import Path
from typing import Literal

import msgspec

from orchestrator import policy_lexicon as lexicon
from orchestrator import policy_text
from orchestrator.policy_lexicon import (
    ADULT,
    AGE,
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
SEXUAL = EXPLICIT | NUDITY | SUGGESTIVE
_NUMBER_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen"
)
_NUMBER = rf"(?P<n>\d{{1,3}}|{_NUMBER_WORDS})"
_AGES = (
    re.compile(rf"(?<![a-z0-9.]){_NUMBER}[\s-]*(?:years?|yrs?)[\s-]*old"),
    re.compile(rf"(?<![a-z0-9.]){_NUMBER}[\s-]*(?:yo|y/o|y\.o\.)(?![a-z])"),
    re.compile(rf"(?:aged?|age:|age is|age of|turns|turning|turned)\s*:?\s*{_NUMBER}(?![0-9.%])"),
    re.compile(rf"{_NUMBER}(?:st|nd|rd|th)?\s*birthday"),
)
_SAID = {word: age for age, word in enumerate(_NUMBER_WORDS.split("|"), 1)}
_ADULT_AGE = 18
_FULL_NAME = re.compile(r"(?<!by )(?<!style of )(?<!after )\b([A-Z][a-z]+) (?:[A-Z]\. )?[A-Z][a-z]{2,}\b")
_GIVEN_NAMES = """
    James John Robert Michael William David Richard Joseph Thomas Charles Christopher Daniel Matthew Anthony Mark Steven
    Paul Andrew Joshua Kevin Brian George Edward Ryan Jacob Nicholas Eric Jonathan Alexander Benjamin Samuel Peter Harry
    Jack Oliver Noah Liam Lucas Adam Brad Tom Chris Donald Joe Mary Patricia Jennifer Linda Elizabeth Barbara Susan
    Jessica Sarah Karen Lisa Nancy Betty Sandra Margaret Ashley Kimberly Emily Donna Michelle Carol Amanda Melissa
    Deborah Stephanie Rebecca Sharon Laura Cynthia Amy Kathleen Angela Anna Emma Olivia Sophia Isabella Mia Charlotte
    Amelia Scarlett Taylor Jane Anne Maria Natalie Megan Rachel Hannah Julia Victoria Grace Alice Kate Rose Selena
"""
_PAIRS = frozenset(lexicon.PHRASES)
_GIVEN = frozenset(_GIVEN_NAMES.split())


class Scan(msgspec.Struct, frozen=True):
    """What a text means to the floor (flags), and its words, for the lists of a policy."""

    flags: int
    plain: str
    words: frozenset[str]


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


@lru_cache(maxsize=2048)
def _scan(text: str) -> Scan:
    said = policy_text.read(text)
    meanings = list(map(lexicon.meaning, said.words))
    flags = reduce(or_, set(meanings), 0)
    if flags & EXPLICIT or not _PAIRS.isdisjoint(zip(said.words, said.words[1:], strict=False)):
        flags = _in_context(said.words, meanings)
    flags = reduce(or_, map(lexicon.meaning, said.readings), flags)
    if flags & AGE or "y/o" in said.plain or "y.o." in said.plain:
        flags |= _ages(said.plain)
    if flags & (SEXUAL | UNDRESS) and _names_someone(text):
        flags |= REAL
    return Scan(flags & ~AGE, said.plain, frozenset(said.words) | said.readings)


def scan(text: str) -> Scan:
    """Read one text. Short ones are remembered: a conversation is sent again with every turn."""
    return _scan(text) if len(text) <= MAX_REMEMBERED else _scan.__wrapped__(text)


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


def _in_context(words: Sequence[str], meanings: Sequence[int]) -> int:
    """The flags of words and phrases; a harmless phrase hides the words in it."""
    flags, at = 0, 0
    while at < len(words):
        length, meaning = _phrase(words, at)
        if not length:
            length, meaning = 1, meanings[at]
            if meaning & EXPLICIT and _harmless_pair(words, at):
                meaning = 0
        elif meaning:  # a phrase adds its meaning to that of its words
            meaning = reduce(or_, meanings[at : at + length], meaning)
        flags |= meaning
        at += length
    return flags


def _phrase(words: Sequence[str], at: int) -> tuple[int, int]:
    """(length in words, flags) of the longest phrase that begins here; (0, 0) where none does."""
    for rest, meaning in lexicon.PHRASES.get((words[at], words[at + 1]), ()) if at + 1 < len(words) else ():
        if tuple(words[at + 2 : at + 2 + len(rest)]) == rest:
            return 2 + len(rest), meaning
    return 0, 0


def _harmless_pair(words: Sequence[str], at: int) -> bool:
    pairs = (words[max(0, at - 1) : at + 1], words[at : at + 2])
    return any(len(pair) == 2 and lexicon.hashed(" ".join(pair)) in lexicon.HARMLESS_PAIRS for pair in pairs)


def _ages(plain: str) -> int:
    """MINOR and ADULT by the ages that are stated."""
    flags = 0
    for pattern in _AGES:
        for match in pattern.finditer(plain):
            said = match["n"]
            age = int(said) if said.isdigit() else _SAID[said]
            flags |= MINOR if age < _ADULT_AGE else ADULT
    return flags


def _names_someone(text: str) -> bool:
    return any(match[1] in _GIVEN for match in _FULL_NAME.finditer(text))


@lru_cache(maxsize=1)
def version() -> str:
    """The hash of the floor's rules: of the source text of the three modules that make it."""
    digest = hashlib.sha256()
    for name in ("policy_floor.py", "policy_lexicon.py", "policy_text.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:16]
