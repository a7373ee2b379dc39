"""A prompt as phrases, and what each is about: quality, subject, lighting, technique or style. Pure."""

import re
from collections.abc import Iterator
from enum import IntEnum


class Kind(IntEnum):
    """In the order in which they are kept."""

    QUALITY = 0
    SUBJECT = 1
    LIGHTING = 2
    TECHNICAL = 3
    STYLE = 4


_WORDS: dict[Kind, str] = {
    Kind.QUALITY: (
        r"masterpiece|(?:best|high|highest|top|premium)[ -]quality|(?:ultra|highly|very|finely|richly)[ -]detailed"
        r"|rich(?:ly)? detail(?:ed)?|professional(?: quality| photo\w*)?|award[ -]winning|photo-?realistic"
        r"|hyper-?realistic|intricate details?|smooth(?:,? continuous)? motion|consistent over time|without flicker"
        r"|temporal(?:ly)? consisten\w+|stays? consistent"
    ),
    Kind.LIGHTING: (
        r"\w*light(?:s|ing|ed)?|golden hour|blue hour|back-?lit|sun(?:rise|set|beams?)|shadows?|glow(?:ing)?|volumetric"
        r"|rim light|key light|softbox|chiaroscuro|neon|dusk|dawn|overcast"
    ),
    Kind.TECHNICAL: (
        r"\d+ ?mm|f/\d[\d.]*|(?:2|4|8|16)k|u?hd|resolution|bokeh|depth of field|focus|lens|camera|iso ?\d+|aperture"
        r"|wide[ -]angle|close[ -]up|macro|tele(?:photo)?|dslr|raw photo|shot|tracking|dolly|pan(?:s|ning)?|push"
        r"|framing|zoom\w*|frame rate|fps|cinematic"
    ),
    Kind.STYLE: (
        r"style|aesthetic|palette|colou?rs?|painting|watercolou?r|illustration|art|artwork|concept art|anime|film grain"
        r"|vintage|minimalist|surreal\w*|impression\w*|mood|atmosphere|trending|composition|photography|tones?"
    ),
}
_PATTERNS = {kind: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for kind, words in _WORDS.items()}
_ORDER = (Kind.QUALITY, Kind.LIGHTING, Kind.TECHNICAL, Kind.STYLE)
_BREAK = re.compile(r"(?<=[,;.!?])\s+|\n+")
_SPACES = re.compile(r"\s+")
MOSTLY = 0.25
"""A phrase is of a kind where at least this part of its words belongs to it; any other tells of the subject."""


def tidy(text: str) -> str:
    """One space between words, and no separator at the ends. Idempotent."""
    return _SPACES.sub(" ", text).strip(" ,;\t")


def phrases(text: str) -> list[str]:
    """The text at its separators, which stay with the phrase that they end."""
    return [
        phrase for phrase in (_SPACES.sub(" ", part).strip() for part in _BREAK.split(text)) if phrase.strip(" ,;.")
    ]


def join(parts: list[str]) -> str:
    return tidy(" ".join(parts))


def kind_of(phrase: str) -> Kind:
    words = max(1, len(phrase.split()))
    for kind in _ORDER:
        found = sum(len(match.split()) for match in _PATTERNS[kind].findall(phrase))
        if found / words >= MOSTLY:
            return kind
    return Kind.SUBJECT


def content_words(text: str) -> Iterator[str]:
    """The words that say what a prompt is about, in lower case."""
    for word in re.findall(r"[^\W_]+", text.lower()):
        if len(word) > 2 and word not in _SMALL:
            yield word


_SMALL = frozenset(
    re.findall(
        r"\w+",
        "the and with for from that this are was were has have had his her its their our your into onto over under "
        "near not but all any can will just very some who what where when which there here make show give picture "
        "image video please want",
    )
)
