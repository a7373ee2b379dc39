"""Text as a reader sees it, whatever characters it is spelt with. Pure, and linear in the text.

Undone here: case, look-alikes of all scripts and combining characters (decancer), characters that are not seen, letters
of Unicode's tag block, a capital I that stands for an l, HTML entities, percent signs and JSON's escapes, emoji and
letters of other scripts beside a word, letters set apart ("n u d e", "n.u.d.e"), common leetspeak, letters repeated for
effect, letters hidden behind an asterisk.

Every view is made by whole-text operations in C (translate, replace, split) and by RE2, which cannot backtrack.
"""

import html
import itertools
import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote

import decancer_py
import msgspec
import re2

_INVISIBLE = (
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),
    *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180E, 0x3164, 0xFEFF, 0xFFA0),
)
_TAGS = range(0xE0000, 0xE0080)


def _table() -> dict[int, str | None]:
    """What is put right before decancer sees it: digits of other scripts, spaces, and what it keeps or misreads."""
    table: dict[int, str | None] = {
        at: str(unicodedata.digit(chr(at))) for at in range(0x80, sys.maxunicode) if chr(at).isdecimal()
    }
    table |= {at: " " for at in range(0x3001) if chr(at).isspace() and at != 0x0A}
    table |= dict.fromkeys((*_INVISIBLE, *_TAGS))
    return table | {ord("ɗ"): "d", ord("ⲗ"): "l", ord("Ⲗ"): "l"}


_PICTOGRAPHS = range(0x1F000, 0x1FC00)  # also those that are newer than Python's tables
_TABLE = _table()
_TAGS_AS_LETTERS = {at: chr(at - 0xE0000) for at in range(0xE0020, 0xE007F)}
_ENTITY = re2.compile(r"&(?:#0*[0-9]{1,12}|#[xX]0*[0-9a-fA-F]{1,10}|[A-Za-z][A-Za-z0-9]{1,31};);?")
_ZEROS = re2.compile(r"^(&#[xX]?)0+([0-9a-fA-F])")
_ESCAPE = re2.compile(r"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})")
_SHORT = 16
_named = lru_cache(1 << 12)(html.unescape)
_SHORT_ESCAPES = {"n": "\n", "r": "\n", "t": " ", "b": " ", "f": " ", '"': '"', "'": "'", "/": "/"}
_PERCENT = re2.compile(r"%[0-7][0-9a-fA-F]")
_TURNED = re2.compile("[\u202d\u202e\u2066-\u2068]")
_I_AS_L = re2.compile(r"[a-z]I")

LETTERS = b"abcdefghijklmnopqrstuvwxyz"


def _only(kept: bytes, signs: bytes = b"", letters: bytes = b"") -> bytes:
    """A table for bytes.translate: `kept` and `signs` (as `letters`) stay, all else becomes a space."""
    table = bytearray(b" " * 256)
    for old, new in zip(kept + signs, kept + letters, strict=True):
        table[old] = new
    return bytes(table)


_SIGNS = b"013456789@$!|+"
_L, _I = b"oleasgtbgasllt", b"oieasgtbgasiit"  # what the signs stand for; 1, ! and | are either
_WORDS, _WORDS_AND_DIGITS = _only(LETTERS), _only(LETTERS + b"0123456789")
_LEET = {"l": _only(LETTERS, _SIGNS, _L), "i": _only(LETTERS, _SIGNS, _I)}
_LEET_INSIDE = {"l": bytes.maketrans(_SIGNS, _L), "i": bytes.maketrans(_SIGNS, _I)}
_NO_LETTER = bytes(set(range(256)) - set(LETTERS) - {0x20})
_NOT_A_LETTER = _NO_LETTER + b" "
_PUNCTUATION = ".,;:!?\"'()[]{}<>-_/\\`“”‘’…"
_JOINS = frozenset(_PUNCTUATION + "*+=^~|&%#")
"""What may stand between one letter and the same again: x*x*x is no word."""
_PLAIN = LETTERS + b" \t\n\r"
_APART = re2.compile(rb"(?: [a-z]){3,} ")
_THREE_APART = re2.compile(rb"(?:^| )[a-z] +[a-z] +[a-z](?: |$)")
_THREE_ALIKE = re2.compile("|".join(f"{chr(letter)}{{3}}" for letter in LETTERS).encode())
BREAK = " qqq "
"""A word that no list holds: no phrase and no run of letters reaches over it."""
_BREAK = BREAK.encode()


class Reading(msgspec.Struct, frozen=True):
    """What a text says, as words with single spaces around them."""

    plain: str
    words: bytes  # letters alone
    disguised: tuple[bytes, bytes]  # what its disguised words may mean, 1 read as l and as i
    runs: bytes  # letters that were set apart, put together

    @property
    def words_and_digits(self) -> bytes:
        return spaced(self.plain.encode("ascii", "replace").translate(_WORDS_AND_DIGITS))


def spellings(text: str) -> list[str]:
    """The text in plain form, then in the other ways that it may be meant to be read."""
    if "&" in text:
        text = _unescaped(_unescaped(text))
    others = []
    if "%" in text and _PERCENT.search(text):
        others.append(unquote(text, errors="replace"))
    if "\\" in text:
        others += [once := _unquoted(text), _unquoted(once) if "\\" in once else once]
    if not text.isascii():
        others += [text.translate(_TAGS_AS_LETTERS), text[::-1] if _TURNED.search(encodable(text)) else text]
        signs, letters = _beside_words(text)
        others += [text.translate(signs), text.translate(signs | letters)]
    if "I" in text and _I_AS_L.search(encodable(text)):
        others.append(text.replace("I", "l"))
    return [plain_form(text), *(plain_form(other) for other in dict.fromkeys(others) if other != text)]


def plain_form(text: str) -> str:
    """Lower case, digits and look-alikes of all scripts as Latin ones, nothing invisible."""
    if text.isascii():
        return text.lower()
    return str(decancer_py.parse(encodable(text).translate(_TABLE), disable_bidi=True))


def read(plain: str) -> Reading:
    """The words of a plain form, and what its disguised ones may mean."""
    raw = plain.encode("ascii", "replace")
    words = spaced(raw.translate(_WORDS))
    disguised = list(_disguised(plain)) if raw.translate(None, _PLAIN) else []
    runs: bytes = b""
    # One letter again and again is no word: a variable, a mark in a list, a cross on a board.
    leet = spaced(raw.translate(_LEET["l"])) if sets_letters_apart(raw) else b""
    spans = [match.span() for match in _APART.finditer(leet) if len(set(match.group())) > 2] if leet else []
    if spans:
        views = leet, spaced(raw.translate(_LEET["i"]))
        either, other = (b" ".join(view[a:b].replace(b" ", b"") for a, b in spans) for view in views)
        disguised.append((either, other))
        runs = spaced(either)
    squeezed = _squeezed(words)
    disguised += [(view, view) for view in squeezed]
    both = tuple(spaced(_BREAK.join(views)) for views in zip(*disguised, strict=True)) or (b"", b"")
    return Reading(plain, words, (both[0], both[1]), runs)


def sets_letters_apart(raw: bytes) -> bool:
    """Whether three letters, or what stands for them, stand by themselves in a row."""
    return _THREE_APART.search(raw.translate(_LEET["l"])) is not None


def is_number(chunk: str) -> bool:
    """Digits alone, and punctuation around them: no word and no disguised one."""
    return chunk.strip(_PUNCTUATION).isdigit()


def letters(plain: str) -> bytes:
    """The words of a plain form, letters alone."""
    return spaced(plain.encode("ascii", "replace").translate(_WORDS))


def dense_letters(plain: str) -> bytes:
    """The same with nothing between the words."""
    return plain.encode("ascii", "replace").translate(None, _NOT_A_LETTER)


def spaced(view: bytes) -> bytes:
    """The view with one space between words, and at its ends."""
    return b" %b " % (b" ".join(view.split()) if b"  " in view else view.strip(b" "))


def _beside_words(text: str) -> tuple[dict[int, str], dict[int, str]]:
    """Signs, emoji among them, and letters that know no case, as dots: decancer reads many of them as Latin letters,
    and so a word that one of them touches as another word."""
    signs, letters = {}, {}
    for character in set(text):
        if character.isascii():
            continue
        at, kind = ord(character), unicodedata.category(character)
        new = kind == "Cn" and at in _PICTOGRAPHS
        if kind == "Lo":
            letters[at] = "."
        elif new or (kind[0] in "PS" and "LETTER" not in unicodedata.name(character, "")):
            signs[at] = "."
    return signs, letters


def _unescaped(text: str) -> str:
    """HTML's character references as what they stand for. Numbers are bounded, for int() is not linear."""
    pieces, end = [], 0
    for match in _ENTITY.finditer(encodable(text)):
        start = match.start()
        entity = match.group()
        pieces += [
            text[end:start],
            _named(entity) if len(entity) < _SHORT else html.unescape(_ZEROS.sub(r"\1\2", entity)),
        ]
        end = match.end()
    return "".join((*pieces, text[end:])) if pieces else text


def _unquoted(text: str) -> str:
    """JSON's escapes as what they stand for: engines read them in the arguments of a tool's call."""
    text = encodable(text).replace(r"\\", "\0")
    for letter, meant in _SHORT_ESCAPES.items():
        text = text.replace("\\" + letter, meant)
    if _ESCAPE.search(text):
        text = _ESCAPE.sub(lambda match: chr(int(match.group()[2:], 16)), text)
    return text.replace("\0", "\\")


def _disguised(plain: str) -> Iterator[tuple[bytes, bytes]]:
    """Readings of words with digits, signs or punctuation in them: leetspeak, signs left out, asterisks as vowels."""
    cores = [chunk.strip(_PUNCTUATION) for chunk in itertools.filterfalse(str.isalpha, plain.split())]
    cores = [core for core in cores if not core.isalpha() and not core.isdigit() and len(set(core) - _JOINS) > 1]
    if not cores:
        return
    raw = " ".join(cores).encode("ascii", "replace")
    yield (raw.translate(None, _NO_LETTER),) * 2
    leet = {form: raw.translate(table) for form, table in _LEET_INSIDE.items()}
    if leet["l"] != raw:
        yield leet["l"].translate(None, _NO_LETTER), leet["i"].translate(None, _NO_LETTER)
        yield leet["l"].translate(_WORDS), leet["i"].translate(_WORDS)
    hidden = " ".join({core for core in cores if 0 < core.count("*") <= 2})
    if hidden:
        for filled in _with_vowels(hidden.encode("ascii", "replace").translate(_LEET_INSIDE["l"])):
            yield (filled.translate(None, _NO_LETTER),) * 2


def _with_vowels(hidden: bytes) -> Iterator[bytes]:
    """Words with one or two asterisks each, with every pair of vowels in place of them."""
    first = hidden.split(b" ")
    for one in (b"a", b"e", b"i", b"o", b"u"):
        half = b" ".join([word.replace(b"*", one, 1) for word in first])
        for two in (b"a", b"e", b"i", b"o", b"u"):
            yield half.replace(b"*", two)


def _squeezed(words: bytes) -> list[bytes]:
    """The words in which a letter stands three times in a row or more: with one of it, and with two."""
    found, end = [], 0
    for match in _THREE_ALIKE.finditer(words):
        if match.start() >= end:
            start = words.rindex(b" ", 0, match.start()) + 1
            end = words.index(b" ", match.start())
            found.append(words[start:end])
    runs = [[(letter, len(list(run))) for letter, run in itertools.groupby(word)] for word in found]
    return [
        b" ".join(b"".join(bytes((letter,)) * (most if n > 2 else n) for letter, n in word) for word in runs)
        for most in ((1, 2) if runs else ())
    ]


def encodable(text: str) -> str:
    """The text without lone surrogates, which no engine takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def own_script(text: str) -> str:
    """The text in its own script, in lower case, its digits as ours."""
    return encodable(text).translate(_TABLE).casefold()
