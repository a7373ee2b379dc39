"""A prompt made to fit so many tokens: whole words only, the subject always there, the rest by what matters. Pure.

Kept in this order while there is room: quality, subject, lighting, technique, style; what is kept stays in its place.
"""

from collections.abc import Callable, Set

from orchestrator.legacy.enhance.phrases import Kind, content_words, join, kind_of, phrases, tidy

Count = Callable[[str], int]


def compress(text: str, target: int, count: Count, about: Set[str] = frozenset()) -> str:
    """At most `target` tokens of `text`, by `count`. What fits already is only tidied, so doing it again changes
    nothing. A word is kept whole or left out; where no word fits, nothing is left. `about` are the words of what was
    asked for: a phrase that holds some tells of the subject, and the one that holds most of them has its place before
    all others."""
    whole = tidy(text)
    if count(whole) <= target:
        return whole
    parts = phrases(whole)
    if not parts:
        return _words_that_fit(whole, target, count)
    told = [len(about & set(content_words(part))) for part in parts]
    kinds = [Kind.SUBJECT if tells else kind_of(part) for part, tells in zip(parts, told, strict=True)]
    subject = max(range(len(parts)), key=lambda at: (told[at], kinds[at] is Kind.SUBJECT, -at))
    first = _as_much_as_fits(parts[subject], target, count)
    kept = {subject: first} if first else {}
    for at in sorted(range(len(parts)), key=lambda at: (kinds[at], at)):
        if at == subject:
            continue
        tried = {**kept, at: parts[at]}
        if count(_text(tried)) <= target:
            kept = tried
    return _settle(_text(kept), target, count) if kept else _words_that_fit(whole, target, count)


def _text(kept: dict[int, str]) -> str:
    return join([kept[at] for at in sorted(kept)])


def _as_much_as_fits(phrase: str, target: int, count: Count) -> str:
    """The whole phrase with its separator, else its first words; nothing where no word of it fits."""
    if count(tidy(phrase)) <= target:
        return phrase
    words = _words_that_fit(phrase, target, count)
    return f"{words}," if words else ""


def _words_that_fit(phrase: str, target: int, count: Count) -> str:
    """The phrase's words from its first on, as many as fit; one that alone is too long is passed over."""
    kept: list[str] = []
    for word in phrase.split():
        if count(tidy(" ".join([*kept, word]))) <= target:
            kept.append(word)
        elif kept:
            break
    return tidy(" ".join(kept))


def _settle(text: str, target: int, count: Count) -> str:
    """Tidying may join what was apart: then the last words go until it fits."""
    words = text.split()
    while words and count(tidy(" ".join(words))) > target:
        words.pop()
    return tidy(" ".join(words))
