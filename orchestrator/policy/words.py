"""What the words of a view mean: the lexicon's words and phrases, found by Aho-Corasick. Pure, linear in the view."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from itertools import accumulate, pairwise, starmap
from operator import or_
from typing import NamedTuple

from ahocorasick_rs import BytesAhoCorasick, Implementation

from orchestrator.policy import lexicon
from orchestrator.policy.lexicon import EXPLICIT
from orchestrator.policy.normalise import Reading, dense_letters, letters

SHORTEST_INSIDE, LONGEST_INSIDE = 4, 16  # letters of a word looked for inside a run of spaced letters
_REACH = 40  # bytes to the word before or after


class _Hit(NamedTuple):
    """A word or phrase of a view; `start` and `end` are those of its letters."""

    start: int
    end: int
    flags: int


def _automaton(patterns: Iterable[str]) -> BytesAhoCorasick:
    return BytesAhoCorasick([pattern.encode() for pattern in patterns], implementation=Implementation.DFA)


_NEUTRAL_FORMS = lexicon.neutral_forms()
_EXPLICIT_KEYS = lexicon.explicit_keys()
_NEUTRAL = _automaton(
    [f" {form} " for form in _NEUTRAL_FORMS]
    + [f" {lexicon.fold(phrase.encode()).decode()} " for phrase, _ in lexicon.PHRASES]
)
_KEYS = _automaton(f" {form} " for form in _EXPLICIT_KEYS)
_NEUTRAL_INSIDE = _automaton(form for form in _NEUTRAL_FORMS if SHORTEST_INSIDE <= len(form) <= LONGEST_INSIDE)
_KEYS_INSIDE = _automaton(form for form in _EXPLICIT_KEYS if SHORTEST_INSIDE <= len(form) <= LONGEST_INSIDE)


def flags_of(reading: Reading) -> int:
    """All that the words of a text mean, also its disguised ones."""
    disguised = reading.disguised[0]
    return _meant(reading.words) | (_meant(disguised) if disguised else 0) | _inside(reading.runs)


def most_of(reading: Reading) -> int:
    """The most that the words of a text could mean: as flags_of, but nothing is hidden by the words around it."""
    disguised = reading.disguised[0]
    found = [_hits(view) for view in (reading.words, disguised) if view]
    return reduce(or_, (_flags(words) | _flags(phrases) for words, phrases in found), _inside(reading.runs))


def means_nothing(word: str) -> bool:
    return not lexicon.meaning(lexicon.fold(word.lower().encode("ascii", "replace")).decode())


def _meant(view: bytes) -> int:
    words, phrases = _hits(view)
    flags = _flags(words)
    return _in_context(view, words, phrases) if phrases or flags & EXPLICIT else flags


def _hits(view: bytes) -> tuple[list[_Hit], list[_Hit]]:
    """The words and the phrases of a view."""
    folded = lexicon.fold(view)
    words, phrases = [], []
    for pattern, start, end in _NEUTRAL.find_matches_as_indexes(folded, overlapping=True):
        if pattern < len(_NEUTRAL_FORMS):
            words.append(_word(view, folded, start + 1, end - 1))
        else:
            phrases.append(_Hit(start + 1, end - 1, lexicon.PHRASES[pattern - len(_NEUTRAL_FORMS)][1]))
    for _, start, end in _KEYS.find_matches_as_indexes(lexicon.keys(folded), overlapping=True):
        words.append(_word(view, folded, start + 1, end - 1))
    return words, phrases


def _word(view: bytes, folded: bytes, start: int, end: int) -> _Hit:
    """A word with its meaning: none, where only its keys are those of a word that has one."""
    innocent = end - start < 6 and view[start:end] in lexicon.INNOCENT
    return _Hit(start, end, 0 if innocent else _of(folded[start:end]))


@lru_cache(maxsize=1 << 14)
def _of(word: bytes) -> int:
    return lexicon.meaning(word.decode())


def _flags(found: Sequence[_Hit]) -> int:
    return reduce(or_, (each.flags for each in found), 0)


def _in_context(view: bytes, words: Sequence[_Hit], phrases: list[_Hit]) -> int:
    """The flags of words and phrases. Of phrases that overlap the first counts, then the longest; one that is harmless
    hides the words in it."""
    flags, hidden, end = 0, [], 0
    for phrase in sorted(phrases, key=lambda found: (found.start, -found.end)):
        if phrase.start >= end:
            flags, end = flags | phrase.flags, phrase.end
            if not phrase.flags:
                hidden.append(phrase)
    words = sorted(words)
    at = 0
    for word in words:
        while at < len(hidden) and hidden[at].end <= word.start:
            at += 1
        inside = at < len(hidden) and hidden[at].start <= word.start
        if word.flags and not inside and not (word.flags & EXPLICIT and _harmless_pair(view, word)):
            flags |= word.flags
    return flags


def _harmless_pair(view: bytes, word: _Hit) -> bool:
    """Whether the word with the one before or after it is an everyday name: of a bird, a person, a book."""
    before = view[max(0, word.start - _REACH) : word.end].split()[-2:]
    after = view[word.start : word.end + _REACH].split()[:2]
    return any(lexicon.hash_of(b" ".join(pair).decode()) in lexicon.HARMLESS_PAIRS for pair in (before, after))


def _inside(runs: bytes) -> int:
    """The flags of words inside runs of letters that were set apart."""
    if not runs:
        return 0
    folded = lexicon.fold(runs)
    found = _NEUTRAL_INSIDE.find_matches_as_indexes(folded, overlapping=True)
    found += _KEYS_INSIDE.find_matches_as_indexes(lexicon.keys(folded), overlapping=True)
    return reduce(or_, (_of(folded[start:end]) for _, start, end in found), 0)


def flags_over_seams(plains: Sequence[str]) -> int:
    """The flags of words that begin with a word of one text and end with a word of a later one, nothing between."""
    if not plains:
        return 0
    dense = [dense_letters(plain) for plain in plains]
    if min(map(len, dense)) >= LONGEST_INSIDE:  # no word lies over two seams
        ends = [(one[-LONGEST_INSIDE:], other[:LONGEST_INSIDE]) for one, other in pairwise(dense)]
        if not any(starmap(_is_word_over, ends)):
            return 0
    over = _over_seams(dense)
    views = [letters(plain) for plain in plains] if over else ()
    edges = {0, *accumulate(len(word) for view in views for word in view.split())}
    whole = lexicon.fold(b"".join(dense))
    return reduce(or_, (_of(whole[start:end]) for start, end in over if {start, end} <= edges), 0)


@lru_cache(maxsize=1 << 12)
def _is_word_over(end: bytes, beginning: bytes) -> bool:
    """Whether a word may lie over this seam. Of a conversation that is sent again most seams are known."""
    return bool(_over_seams((end, beginning)))


def _over_seams(dense: Sequence[bytes]) -> list[tuple[int, int]]:
    """Where words lie in letters that are joined, over where these begin."""
    seams = list(accumulate(map(len, dense)))
    folded = lexicon.fold(b"".join(dense))
    found = _NEUTRAL_INSIDE.find_matches_as_indexes(folded, overlapping=True)
    found += _KEYS_INSIDE.find_matches_as_indexes(lexicon.keys(folded), overlapping=True)
    return [(start, end) for _, start, end in found if seams[bisect_right(seams, start)] < end]
