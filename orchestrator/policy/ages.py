"""Ages that a text states, however it states them. Pure, by RE2: linear in the text.

Each kind of statement is a pattern with a number `n` (and a second one, `m`, of a range), the words without which it
cannot match, and what its number means. What comes just before and after a match is looked at too: a whisky of sixteen
years and a wait of sixteen minutes are nobody's age. What stays open is AMBIGUOUS, which is refused above tier 0.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import re2
from ahocorasick_rs import BytesAhoCorasick, Implementation

from orchestrator.policy import age_words as words
from orchestrator.policy.age_words import NUMBER, ORDINAL, PERSON, number
from orchestrator.policy.lexicon import ADULT, AMBIGUOUS, MINOR
from orchestrator.policy.normalise import own_script

MAJORITY = 18
_BEFORE, _AFTER = 48, 40  # characters looked at around a match
_THING_BEFORE = re2.compile(words.THING_BEFORE)
_THING_AFTER = re2.compile(words.THING_AFTER)
_MEASURE_AFTER = re2.compile(words.MEASURE_AFTER)
_NOBODY_BEFORE = re2.compile(words.NOBODY_BEFORE)
_DURATION_BEFORE = re2.compile(words.DURATION_BEFORE)
_DURATION_AFTER = re2.compile(words.DURATION_AFTER)
_YEARS_AFTER = re2.compile(words.YEARS_AFTER)
_YEARS_SPENT_AFTER = re2.compile(words.YEARS_SPENT_AFTER)
_COUNT_BEFORE = re2.compile(words.COUNT_BEFORE)
_PEOPLE_BEFORE = re2.compile(words.PEOPLE_BEFORE)
_SOME_NUMBER = re2.compile(r"[0-9]|teen\b|\b(?:three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b")

_RANGE = rf"(?P<n>{NUMBER})(?:\s*(?:-|/|to|or|and|through|until)\s*(?P<m>{NUMBER}))?"
_FRACTION = r"(?:[\s-]+and[\s-]+(?:a[\s-]+half|a[\s-]+quarter|three[\s-]+quarters|a[\s-]+bit|\w+[\s-]+months?))?"
_SOFTLY = rf"(?:[\s,]+(?:{words.ADVERB}))*[\s,~\"'(*_>]*"
_IS = (
    r"(?:'s|'m|'re|'(?:ll|d)\s+be|\s+(?:is|was|am|are|were|be|being|(?:will|would)\s+be|ha[sd]\s+been|looks?|looked|seems?"
    r"|seemed|appears?|appeared|acts?)(?:\s+like)?)"
)
_WHO = rf"(?:she|he|i|who|they|we|you|{PERSON})"
_END = r"\s*(?:[,.;:!?)\]/\n-]|$|(?:and|who|with|in|on|at|but|from|is|was|wearing|sits|stands|lies|posing)\b)"


class _Match(NamedTuple):
    """A statement: its numbers, and the text before and after it."""

    numbers: list[float]
    before: str
    after: str
    unit: str


class _Kind(NamedTuple):
    needs: tuple[str, ...]  # none of these in the text: no match
    pattern: "re2._Regexp"
    means: Callable[[_Match], int]


def stated(plain: str, text: str, apart: str = "") -> int:
    """MINOR, AMBIGUOUS and ADULT, by the ages that a text states. `plain` is its plain form.

    Of texts that were joined, `apart` is the same less closely joined: what stands there too was judged there, with
    what is written around it.
    """
    if not may_state(plain, text):
        return 0 if text.isascii() else _found(_OTHER_SCRIPTS, own_script(text), apart)
    flags = 0
    numbers = bool(_SOME_NUMBER.search(plain))
    met = {
        _NEEDED[hit[0]] for hit in _NEEDS.find_matches_as_indexes(plain.encode("ascii", "replace"), overlapping=True)
    }
    for kind in _KINDS:
        if (numbers if not kind.needs else not met.isdisjoint(kind.needs)) and not flags & MINOR:
            flags |= _found(kind, plain, apart)
    if numbers and not flags & (MINOR | AMBIGUOUS):
        flags |= _found(_NAMED, text, apart)
    if not text.isascii() and not flags & MINOR:
        flags |= _found(_OTHER_SCRIPTS, own_script(text), apart)
    return flags


def may_state(plain: str, text: str) -> bool:
    """Whether something has the form of a statement of age, whatever it means; ages in other scripts apart. One look
    for all kinds: most texts state none."""
    forms = (text,) if text.isascii() and plain == text.lower() else (plain, text)
    return any(_ANY_KIND.search(form.encode("utf-8", "replace")) for form in forms)


def _found(kind: _Kind, text: str, apart: str = "") -> int:
    """What the matches of a kind mean together. Nothing is added to a minor: it ends the search."""
    flags = 0
    for match in kind.pattern.finditer(text):
        if apart and match.group() in apart:
            continue
        groups = match.groupdict()
        numbers = [number(groups[name]) for name in ("n", "m", "o") if groups.get(name)]
        start, end = match.span()
        seen = _Match(numbers, text[max(0, start - _BEFORE) : start], text[end : end + _AFTER], groups.get("u") or "")
        flags |= kind.means(seen)
        if flags & MINOR:
            break
    return flags


def _by(ages: Iterable[float]) -> int:
    return MINOR if min(ages) < MAJORITY else ADULT


def _of_a_thing(match: _Match) -> bool:
    return bool(_THING_AFTER.search(match.after) or _THING_BEFORE.search(match.before))


def _measures(match: _Match) -> bool:
    """Whether the number counts or measures something else."""
    after = _YEARS_SPENT_AFTER if _YEARS_AFTER.search(match.after) else _MEASURE_AFTER
    return bool(after.search(match.after))


def _in_years(match: _Match) -> int:
    """N years old, and the like."""
    if _of_a_thing(match):
        return 0
    scale = {"m": 12, "w": 52, "d": 365}.get(match.unit[:1], 1)
    return _by(age / scale for age in match.numbers)


def _labelled(match: _Match) -> int:
    """aged N, age: N."""
    return 0 if _of_a_thing(match) or _measures(match) else _by(match.numbers)


def _plainly(match: _Match) -> int:
    """she is N, turned N, a girl of N: no unit says that it is an age, but a measure would say that it is none."""
    unlikely = min(match.numbers) < 3 or max(match.numbers) > 120
    if unlikely or _measures(match) or _COUNT_BEFORE.search(match.before):
        return 0
    return _by(match.numbers)


def _apart(match: _Match) -> int:
    """The dancer, N, and the like: punctuation ends the number."""
    unlikely = min(match.numbers) < 3 or max(match.numbers) > 120
    return 0 if unlikely or _COUNT_BEFORE.search(match.before) else _by(match.numbers)


def _openly(match: _Match) -> int:
    """Nothing says of whom or what the number is: a minor's age is taken for one that may be."""
    return AMBIGUOUS if _plainly(match) & MINOR and not _of_a_thing(match) else 0


def _named(match: _Match) -> int:
    """Somebody, by a capitalised name."""
    return AMBIGUOUS if _apart(match) & MINOR and not _of_a_thing(match) else 0


def _birthday(match: _Match) -> int:
    return 0 if _of_a_thing(match) else _by(match.numbers)


def _under(match: _Match) -> int:
    """under N, younger than N, almost N."""
    age = min(match.numbers)
    about_people = (
        age == MAJORITY or match.unit in ("under", "younger than", "older than") or _PEOPLE_BEFORE.search(match.before)
    )
    if not 10 <= age <= MAJORITY or _measures(match) or _NOBODY_BEFORE.search(match.before):
        return 0
    return MINOR if about_people else AMBIGUOUS


def _not_yet(match: _Match) -> int:
    at_most = _NOBODY_BEFORE.search(match.before) or _measures(match)
    return MINOR if min(match.numbers) == MAJORITY and not at_most else 0


def _short_of(match: _Match) -> int:
    """N years short of M: the second number less the first."""
    if not 10 <= match.numbers[-1] <= 21 or _measures(match):
        return 0
    less = match.numbers[0] if len(match.numbers) == 2 and match.unit.startswith("y") else 1
    return _by([match.numbers[-1] - less])


def _grade(match: _Match) -> int:
    return MINOR if 1 <= min(match.numbers) <= 12 and not words.GRADE_OF_A_THING.search(match.after) else 0


def _grade_openly(match: _Match) -> int:
    return AMBIGUOUS if _grade(match) and not _THING_BEFORE.search(match.before + " is ") else 0


def _born(match: _Match) -> int:
    """In which year; no clock says how long ago that is, so the years that may be too late are open."""
    year = match.numbers[0]
    if _THING_BEFORE.search(match.before + " is ") or year < words.OPEN_FROM:
        return 0
    return MINOR if year >= words.MINOR_FROM else AMBIGUOUS


def _abroad(match: _Match) -> int:
    """N ans, N años: an age or a duration."""
    if _DURATION_BEFORE.search(match.before) or _DURATION_AFTER.search(match.after) or _of_a_thing(match):
        return 0
    return _by(match.numbers)


def _says(flags: int) -> Callable[[_Match], int]:
    return lambda match: 0 if _NOBODY_BEFORE.search(match.before) else flags


_YEARS = ("year", "yr", "y/o", "y.o", "yo", "month", "week", "day", "summer", "winter")
_KINDS = (
    _Kind(
        _YEARS,
        re2.compile(
            rf"\b{_RANGE}(?:-?ish)?{_FRACTION}[\s-]*(?:"
            rf"(?P<u>years?|yrs?|months?|weeks?|days?)[\s.-]*(?:olds?\b|of[\s-]age\b|young\b|of[\s-]life\b)"
            r"|year[\s-]+(?:girl|boy|female|male|lass|lad|teen)s?\b"
            r"|(?:yo|y/o|y\.\s?o\.?|yrs?\s*/\s*o)(?:[^a-z]|$)|summers?\b|winters?\b)"
        ),
        _in_years,
    ),
    _Kind(
        ("age",),
        re2.compile(
            rf"\bage[sd]?(?:[\s:=,\"'(\[>*~_-]|(?:is|was|of|group|range|bracket|about|around|only|just|between|from|at"
            rf"|roughly|approximately|barely|maybe|years|yrs|number|now|under|below))*{_RANGE}\b"
        ),
        _labelled,
    ),
    _Kind(("yr",), re2.compile(rf"\b{_RANGE}[\s-]*yrs?{_END}"), _openly),
    _Kind((), re2.compile(rf"\b(?:just|only|barely|now|still|merely|a mere){_SOFTLY}\s+{_RANGE}{_END}"), _openly),
    _Kind(
        (),
        re2.compile(
            rf"\b(?:she|he|i|they)(?:\s+(?:just|had|has|have|only|finally))*\s+(?:became|become|reach(?:ed|es)?|hits?)"
            rf"{_SOFTLY}{_RANGE}\b|\b(?:she|he)\s*[(\[]{_SOFTLY}(?P<o>{NUMBER})\s*[)\]]"
        ),
        _plainly,
    ),
    _Kind((), re2.compile(rf"\b{_WHO}{_IS}{_SOFTLY}{_RANGE}\b"), _plainly),
    _Kind((), re2.compile(rf"\b(?:im|ive|shes|hes|theyre|youre|id|she|he|i){_SOFTLY}\s+{_RANGE}{_END}"), _apart),
    _Kind(
        (), re2.compile(rf"\b(?:im|shes|hes){_SOFTLY}\s+{_RANGE}\b|\b(?:{PERSON})\s*[,(]\s*(?P<o>{NUMBER})\b"), _plainly
    ),
    _Kind((), re2.compile(rf"\b(?:{PERSON})\s+of{_SOFTLY}\s*{_RANGE}\b"), _plainly),
    _Kind((), re2.compile(rf"\b(?:{PERSON})\s*[,:(\[/-]?{_SOFTLY}{_RANGE}{_END}"), _apart),
    _Kind(
        (),
        re2.compile(rf"\bat\s+(?:only\s+|just\s+|about\s+)?{_RANGE}\s*,?\s*(?:she|he|i|they)\b"),
        _openly,
    ),
    _Kind(
        (), re2.compile(rf"\b{_RANGE}[\s,/]*(?:(?:female|male|girl|boy|f)(?:\s*[,.;:!?)/]|\s*$)|/\s*[fm]\b)"), _openly
    ),
    _Kind((), re2.compile(rf"(?:^|[\s(])[fm]\s*,\s*{_RANGE}\b"), _openly),
    _Kind(
        ("turn",),
        re2.compile(
            rf"\b(?:turn(?:s|ed|ing)|(?:to|will|'ll|would|not|n't|gonna|soon|just|she|he|i|yet)\s+turn){_SOFTLY}{_RANGE}\b"
        ),
        _plainly,
    ),
    _Kind(("goin",), re2.compile(rf"\b(?P<n>{NUMBER})[\s-]+goin'?g?[\s-]+on[\s-]+{NUMBER}\b"), _plainly),
    _Kind(
        ("age",),
        re2.compile(
            rf"\b{_RANGE}\s+(?:is|was|being)\s+(?:her|his|their|my|your)\s+(?:real\s+|true\s+|actual\s+|own\s+)?age\b"
        ),
        _labelled,
    ),
    _Kind(
        ("celebrat",),
        re2.compile(
            rf"\bcelebrat(?:e|es|ed|ing)\s+(?:her|his|their|my|turning)\s+(?P<n>{ORDINAL}|{NUMBER})(?:th)?(?:\s*[,.;!?]|\s*$)"
        ),
        _openly,
    ),
    _Kind(
        ("lived", "alive", "walked"),
        re2.compile(
            r"\b(?:lived|alive|walked)\s+(?:(?:the|this)\s+earth\s+)?(?:for\s+)?(?:only\s+|just\s+|all\s+of\s+|barely\s+)?"
            rf"(?P<n>{NUMBER})\s+(?:years|summers|winters|springs)(?:\s+(?:on|in)\s+(?:this\s+|the\s+)?(?:earth|world))?"
            r"(?:\s*[,.;!?]|\s*$)"
        ),
        _openly,
    ),
    _Kind(
        ("birthday", "bday", "b-day"),
        re2.compile(
            rf"\b(?P<n>{ORDINAL}|{NUMBER})(?:st|nd|rd|th)?[\s-]*(?:birth\s?day|b-?day)"
            rf"|\bb(?:irth|-)?day\s*(?:number|no\.?|nr\.?|#|:|candles?|\()\s*(?P<m>{NUMBER})\b"
        ),
        _birthday,
    ),
    _Kind(
        ("year", "summer", "winter", "spring"),
        re2.compile(
            rf"\b(?:her|his|their|my)\s+(?:very\s+)?(?P<n>{ORDINAL}|{NUMBER})\s+(?:years?|summers?|winters?|springs?)"
            r"(?:\s+(?:of|on)\s+(?:age|life|earth))?(?:\s*[,.;!?]|\s*$)"
        ),
        _openly,
    ),
    _Kind(
        ("under", "below", "younger", "less"),
        re2.compile(
            rf"\b(?P<u>under|below|younger than|less than)[\s-]+(?:the\s+)?(?:age\s+)?(?:of\s+)?(?P<n>{NUMBER})(?:s|\b)"
        ),
        _under,
    ),
    _Kind(
        ("than", "over", "beyond", "<"),
        re2.compile(
            r"\b(?:no|not|\w+n't|never)\s+(?:a\s+day\s+|much\s+|any\s+|yet\s+|even\s+)*(?P<u>older\s+than|over|more\s+than"
            rf"|beyond)\s+(?P<n>{NUMBER})\b|<\s*=?\s*(?P<m>18)\b"
        ),
        _under,
    ),
    _Kind(
        ("18", "eighteen"),
        re2.compile(
            r"\b(?:(?:not|\w+n't|never|yet)(?:\s+(?:yet|even|quite|been|to|be|turn|turned|reached|reach|a|the"
            r"|age|of|over|older|than|celebrated|had|her|his|their|my))*"
            r"|almost|nearly|not quite|close to|approaching|barely|soon(?:\s+to\s+be)?|about\s+to\s+(?:be|turn)"
            r"|(?:before|until|till|when)(?:\s+(?:she's|he's|i'm|she|he|i|they|turning|turns?|is|am|are|becomes?|being|reaching"
            r"|her|his|their|my|the|age|of))+)\s+(?:turning\s+)?"
            r"(?P<n>18|eighteen)(?:th)?\b"
        ),
        _not_yet,
    ),
    _Kind(
        ("turn",),
        re2.compile(r"\bturn(?:s|ing)?\s+(?P<n>18|eighteen)\s+(?:next|in|this|on|tomorrow|soon|later)\b"),
        _says(MINOR),
    ),
    _Kind(
        ("year", "month", "week", "day"),
        re2.compile(
            rf"(?:\b(?P<n>{NUMBER})|\b(?:a|an|few|several|some|half\s+a|couple(?:\s+of)?))\s+(?P<u>years?|months?|weeks?|days?)"
            r"\s+(?:(?:shy|short)\s+of|(?:away|off)(?:\s+from)?|younger\s+than|from|(?:before|until|till)"
            r"\s+(?:she|he|i|they|turning|reaching|being)(?:'s|'m|'re|'ll\s+be)?)(?:\s+(?:is|am|are|turns?|turning|being|reaching|her|his|their"
            rf"|becoming|the|age|of|will|be))*\s+(?P<m>{ORDINAL}|{NUMBER})(?:th)?\b"
        ),
        _short_of,
    ),
    _Kind(
        ("grade",),
        re2.compile(rf"\b(?P<n>{ORDINAL})[\s-]*(?:grade(?:rs?)?)\b|\bgrade\s+(?P<m>{NUMBER})\s+(?:{words.PUPIL})"),
        _grade,
    ),
    _Kind(("grade", "year"), re2.compile(rf"\b(?:grade|in\s+year)\s+(?P<n>{NUMBER})\b"), _grade_openly),
    _Kind(
        ("year ", "class ", "form", "klasse"),
        re2.compile(
            rf"\b(?:year|class|form)\s+(?P<n>{NUMBER})\s+(?:{words.PUPIL})"
            rf"|\b(?:{words.PUPIL})\s+(?:is\s+)?(?:in|of|from)\s+(?:year|class|form)\s+(?P<m>{NUMBER})\b"
        ),
        _grade,
    ),
    _Kind(
        ("klasse", "former"), re2.compile(rf"\b(?P<n>\d{{1,2}}|{ORDINAL})\.?[\s-]*(?:klasse|klassler|former)\b"), _grade
    ),
    _Kind(
        ("born", "birth", "dob", "d.o.b"),
        re2.compile(
            r"\b(?:born|dob|d\.o\.b\.?|birth\s?(?:date|day|year)?|year of birth|date of birth)"
            r"(?:[\s:=,'\"(-]|\b(?:is|was|in|on|of|around|after|the|early|late|mid)\b)*"
            r"(?:(?:\d{1,2}(?:st|nd|rd|th)?|[a-z]{3,9})[\s./,-]+){0,3}(?P<n>(?:19|20)\d\d)\b"
        ),
        _born,
    ),
    _Kind(words.ABROAD_NEEDS, re2.compile(words.ABROAD), _abroad),
    _Kind(words.MINOR_NEEDS, re2.compile(words.MINOR_PHRASES), _says(MINOR)),
    _Kind(words.OPEN_NEEDS, re2.compile(words.OPEN_PHRASES), _says(AMBIGUOUS)),
)
_NEEDED = sorted({need for kind in _KINDS for need in kind.needs})
_NEEDS = BytesAhoCorasick([need.encode() for need in _NEEDED], implementation=Implementation.DFA)
_NAMED = _Kind((), re2.compile(words.NAMED), _named)
_OTHER_SCRIPTS = _Kind((), re2.compile(words.OTHER_SCRIPTS), _abroad)


def _any_kind() -> "re2._Regexp":
    """Matches where any kind does, also in a text that is not in lower case; only where is not said."""
    options = re2.Options()
    options.never_capture = True
    options.max_mem = 64 << 20
    kinds = "|".join(f"(?:{kind.pattern.pattern})" for kind in _KINDS)
    return re2.compile(_NAME.sub("(?:", f"(?i:{kinds})|{_NAMED.pattern.pattern}"), options)


_NAME = re2.compile(r"\(\?P<\w>")
_ANY_KIND = _any_kind()
