"""Words that mean nothing risky, wherever they stand: most of what people write. Remembered, so that most texts need no
more than a look at which words they hold. Pure.

Of a text that holds nothing else, and no letters that are set apart, no view means anything risky: each word of a view
is a word of one chunk, no word does by itself, and of every risky phrase one word is missing.
"""

from itertools import islice

from orchestrator.policy import normalise
from orchestrator.policy import words as policy_words
from orchestrator.policy.lexicon import ADULT, FICTION, INFORMATION, PHRASES, fold

RISKY = ~(ADULT | INFORMATION | FICTION)  # flags that by themselves mean nothing
MOST_CHUNKS, LONGEST_CHUNK = 1 << 16, 40  # that are remembered, and characters of one
MOST_STRANGE = 32  # chunks that are looked into at once
_MARKS = frozenset("&%*\\")  # what an entity, an escape or a hidden letter is written with
_OF_PHRASES = frozenset(max(fold(phrase.encode()).split(), key=len) for phrase, flags in PHRASES if flags & RISKY)
_known: set[str] = set()


def is_harmless(text: str) -> bool:
    """Whether no way to read an ASCII text means anything risky by its words, as far as that can be told at once."""
    raw = text.lower().encode()
    if normalise.sets_letters_apart(raw):
        return False
    strange = set(text.split()) - _known
    return all(map(_is_harmless, islice(strange, MOST_STRANGE))) and len(strange) <= MOST_STRANGE


def _is_harmless(chunk: str) -> bool:
    """Whether this can be a part of any text without a risky meaning."""
    if normalise.is_number(chunk):
        return True
    if not _MARKS.isdisjoint(chunk) or normalise.spellings(chunk) != [chunk.lower()]:
        return False
    reading = normalise.read(chunk.lower())
    words = {fold(word) for word in (reading.words + reading.disguised[0]).split()}
    if policy_words.most_of(reading) & RISKY or not words.isdisjoint(_OF_PHRASES):
        return False
    if len(chunk) <= LONGEST_CHUNK:
        if len(_known) >= MOST_CHUNKS:
            _known.clear()
        _known.add(chunk)
    return True
