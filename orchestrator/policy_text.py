"""Text as a reader sees it, whatever characters it is spelt with. Pure.

Undone here: case, Unicode compatibility forms and confusables, zero-width and combining characters, letters set apart
("n u d e", "n.u.d.e"), common leetspeak, letters repeated for effect, one letter hidden behind an asterisk.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import msgspec

# Each group: letters of other scripts that look like the first, Latin one.
_LOOKALIKES = (
    *("aаαɑᴀа🅰🅐", "bвβʙьЬ", "cсϲᴄ", "dԁɗᴅđ", "eеεєҽᴇ", "fƒꜰ", "gɡցɢ", "hһհнʜħ", "iіιıɩɪ", "jјϳᴊ", "kкκᴋ", "lӏłʟⅼ"),
    *(
        "mмᴍ",
        "nոηпɴ",
        "oоοօσøᴏ",
        "pрρᴘ",
        "qԛգ",
        "rгʀɾ",
        "sѕꜱʂ",
        "tтτᴛŧ",
        "uսυᴜц",
        "vνѵᴠ",
        "wԝωᴡш",
        "xхχ",
        "yуүγʏ",
        "zᴢʐ",
    ),
)
_INVISIBLE = (
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),
    *range(0xE0000, 0xE0080),
    *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180E, 0x3164, 0xFEFF, 0xFFA0),
)


def _table() -> dict[int, str | None]:
    table: dict[int, str | None] = dict.fromkeys(_INVISIBLE)
    for group in _LOOKALIKES:
        table.update({ord(other): group[0] for other in group[1:]})
    for start in (0x1F130, 0x1F150, 0x1F170, 0x1F1E6):  # squared, circled and regional letters
        table.update({start + at: chr(ord("a") + at) for at in range(26)})
    return table


_CONFUSABLE = _table()
_LEET = str.maketrans("013456789@$!|+€£", "oieasgtbgasiiteL".lower())
_LEET_L = str.maketrans("013456789@$!|+€£", "oleasgtbgasllteL".lower())

_LOWER = frozenset(b"abcdefghijklmnopqrstuvwxyz")
_ONLY_LETTERS = bytes(byte if byte in _LOWER else 0x20 for byte in range(256))
_is_letter = frozenset("abcdefghijklmnopqrstuvwxyz").__contains__
_SPACED = re.compile(r"(?<![a-z0-9])[a-z0-9@$!](?:[\W_]{1,3}[a-z0-9@$!](?![a-z0-9])){2,}")
_REPEATED = re.compile(r"([a-z])\1{2,}")
_LETTERS = re.compile(r"[^a-z]+")
_PUNCTUATION = ".,;:!?\"'()[]{}<>-_/\\`“”‘’…"
MAX_CHUNK = 64  # characters; what is longer is no word
SHORTEST_INSIDE = 4  # letters of a word looked for inside a run of spaced letters


class Words(msgspec.Struct, frozen=True):
    """What a text says: its plain form, its words in order, and further readings of words that were disguised."""

    plain: str
    words: list[str]
    readings: frozenset[str]


def read(text: str) -> Words:
    """The words of `text`, and what its disguised ones may mean."""
    plain = plain_form(text)
    words = plain.encode("ascii", "replace").translate(_ONLY_LETTERS).decode("ascii").split()
    readings: set[str] = set()
    for chunk in itertools.filterfalse(str.isalpha, plain.split()):
        readings |= _disguised(chunk[:MAX_CHUNK])
    if sum(map(_is_letter, words)) > 2:
        for match in _SPACED.finditer(plain):
            readings.update(_run_readings(match[0]))
    for found in filter(None, map(_squeezed, words)):
        readings.update(found)
    return Words(plain, words, frozenset(readings))


def plain_form(text: str) -> str:
    """Lower case, compatibility forms folded, lookalikes as Latin letters, nothing invisible."""
    if text.isascii():
        return text.lower()
    shown = unicodedata.normalize("NFKC", text.translate(_CONFUSABLE)).casefold().translate(_CONFUSABLE)
    if shown.isascii():
        return shown
    parts = unicodedata.normalize("NFD", shown)
    return "".join(c for c in parts if unicodedata.category(c) not in ("Mn", "Me", "Cf"))


@lru_cache(maxsize=1 << 14)
def _disguised(chunk: str) -> frozenset[str]:
    """A word with digits, signs or punctuation in it, read as leetspeak and with them left out."""
    core = chunk.strip(_PUNCTUATION)
    if core.isalpha() or core.isdigit() or not core:
        return frozenset()
    found = {_LETTERS.sub("", core.translate(table)) for table in (_LEET, _LEET_L)}
    found.add(_LETTERS.sub("", core))
    if 0 < core.count("*") <= 2:
        for vowels in itertools.product("aeiou", repeat=core.count("*")):
            filled = iter(vowels)
            found.add(_LETTERS.sub("", "".join(next(filled) if c == "*" else c for c in core)))
    return frozenset(found)


def _run_readings(run: str) -> Iterator[str]:
    """Letters set apart: the word they make, and words inside it."""
    joined = _LETTERS.sub("", run.translate(_LEET))[:MAX_CHUNK]
    yield joined
    for start in range(len(joined)):
        for end in range(start + SHORTEST_INSIDE, min(len(joined), start + 16) + 1):
            yield joined[start:end]


@lru_cache(maxsize=1 << 16)
def _squeezed(word: str) -> tuple[str, ...]:
    """A word with letters repeated for effect, as it is spelt: with one of them, and with two."""
    return (_REPEATED.sub(r"\1", word), _REPEATED.sub(r"\1\1", word)) if _REPEATED.search(word) else ()
