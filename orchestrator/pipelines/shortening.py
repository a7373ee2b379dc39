"""A message in at most 25 words that still says what it wants. Pure.

A model shortens better; this is for when none did, and it says whether a model's shortening kept the message's words.
"""

import re
from collections import Counter

MOST_WORDS = 25
LEAST_KEPT = 0.5  # the share of a shortened message's content words that must be the message's own
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_CLAUSES = re.compile(r"(?<=[.!?;:\n]) |, | (?:[-–—]|because|but) ", re.IGNORECASE)  # in text with single spaces
_SPACES = re.compile(r"\s+")
_ASKING = frozenset(
    (
        *("can", "could", "please", "want", "wish", "like", "show", "see", "send", "make", "draw", "paint", "imagine"),
        *("picture", "photo", "image", "drawing", "painting", "scene"),
    )
)
"""Words of clauses that say what is wanted."""
_STEM = 5  # letters that two forms of one word share
_SHORT = 2  # letters; words up to here carry little of what is wanted
_FILLING = frozenset(
    (
        *("the", "and", "with", "was", "were", "had", "has", "have", "are", "been", "that", "this", "there", "very"),
        *("really", "just", "about", "then", "for", "you", "your", "would", "some", "such", "also", "too", "beside"),
    )
)


def words(text: str) -> list[str]:
    """Its words, with what belongs to them: "don't" and "sun-lit" are one."""
    return _WORD.findall(text)


def _with_single_spaces(text: str) -> str:
    """The text with one space for each run of them; one with a line's end in it ends a clause."""
    return _SPACES.sub(lambda run: "\n " if "\n" in run[0] else " ", text)


def is_long(message: str) -> bool:
    return len(message.split()) > MOST_WORDS


def keeps(shortened: str, message: str) -> bool:
    """Whether a shortened message is short, says something, and says it in the message's words."""
    content = _content(shortened)
    if is_long(shortened) or not content:
        return False
    own = set(_content(message))
    return sum(stem in own for stem in content) >= LEAST_KEPT * len(content)


def shorten(message: str) -> str:
    """The clauses that ask for something, then those that say most of what the whole message is about, in their order,
    in at most 25 words."""
    if not is_long(message):
        return message
    clauses = [clause.strip(" ,") for clause in _CLAUSES.split(_with_single_spaces(message)) if words(clause)]
    weights = Counter(_content(message))
    room, chosen = MOST_WORDS, set[int]()
    for at in sorted(range(len(clauses)), key=lambda at: (-_worth(clauses[at], weights), at)):
        count = len(clauses[at].split())
        if count <= room:
            chosen.add(at)
            room -= count
    if not chosen:
        return _cut(clauses[0] if clauses else message)
    return ", ".join(clauses[at].rstrip(".;:!?") for at in sorted(chosen))


def _worth(clause: str, weights: Counter[str]) -> float:
    """What it asks for, then the weight of its content by the word, so that a long one does not win by length alone."""
    said = words(clause.lower())
    asks = sum(word in _ASKING for word in said)
    return 10 * asks + sum(weights[stem] for stem in set(_content(clause))) / (len(said) + 2)


def _cut(clause: str) -> str:
    """One clause that is too long by itself: its filling words go first, from the end; then its end."""
    kept = clause.split()
    for at in reversed(range(len(kept))):
        if len(kept) <= MOST_WORDS:
            break
        if not _content(kept[at]):
            del kept[at]
    return " ".join(kept[:MOST_WORDS])


def _content(text: str) -> list[str]:
    """The stems of the words that carry a meaning."""
    return [word[:_STEM] for word in words(text.lower()) if len(word) > _SHORT and word not in _FILLING]
