"""What the number of a statement means: the age of a minor, of an adult, of nobody, or one that stays open. Pure.

What comes just before and after is looked at too: a whisky of sixteen years and a wait of sixteen minutes are nobody's
age. What stays open is AMBIGUOUS, which is refused above tier 0.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import re2

from orchestrator.policy import age_words as words
from orchestrator.policy.lexicon import ADULT, AMBIGUOUS, MINOR

MAJORITY = 18
_THING_BEFORE, _THING_AFTER = re2.compile(words.THING_BEFORE), re2.compile(words.THING_AFTER)
_MEASURE_AFTER, _NOBODY_BEFORE = re2.compile(words.MEASURE_AFTER), re2.compile(words.NOBODY_BEFORE)
_DURATION_BEFORE, _DURATION_AFTER = re2.compile(words.DURATION_BEFORE), re2.compile(words.DURATION_AFTER)
_YEARS_AFTER, _YEARS_SPENT_AFTER = re2.compile(words.YEARS_AFTER), re2.compile(words.YEARS_SPENT_AFTER)
_COUNT_BEFORE, _PEOPLE_BEFORE = re2.compile(words.COUNT_BEFORE), re2.compile(words.PEOPLE_BEFORE)


class Statement(NamedTuple):
    """Its numbers, the text before and after it, and their unit."""

    numbers: list[float]
    before: str
    after: str
    unit: str


def in_years(found: Statement) -> int:
    """N years old, and the like."""
    if _of_a_thing(found):
        return 0
    scale = {"m": 12, "w": 52, "d": 365}.get(found.unit[:1], 1)
    return _by(age / scale for age in found.numbers)


def by_label(found: Statement) -> int:
    """aged N, age: N."""
    return 0 if _of_a_thing(found) or _measures(found) else _by(found.numbers)


def of_person(found: Statement) -> int:
    """she is N, turned N, a girl of N: no unit says that it is an age, but a measure would say that it is none."""
    return 0 if _measures(found) else before_punctuation(found)


def before_punctuation(found: Statement) -> int:
    """The dancer, N, and the like: punctuation ends the number."""
    unlikely = min(found.numbers) < 3 or max(found.numbers) > 120
    return 0 if unlikely or _COUNT_BEFORE.search(found.before) else _by(found.numbers)


def open_age(found: Statement) -> int:
    """Nothing says of whom or what the number is: a minor's age is taken for one that may be."""
    return AMBIGUOUS if of_person(found) & MINOR and not _of_a_thing(found) else 0


def of_name(found: Statement) -> int:
    """Somebody, by a capitalised name."""
    return AMBIGUOUS if before_punctuation(found) & MINOR and not _of_a_thing(found) else 0


def of_birthday(found: Statement) -> int:
    return 0 if _of_a_thing(found) else _by(found.numbers)


def under(found: Statement) -> int:
    """under N, younger than N, almost N."""
    age = min(found.numbers)
    about_people = (
        age == MAJORITY or found.unit in ("under", "younger than", "older than") or _PEOPLE_BEFORE.search(found.before)
    )
    if not 10 <= age <= MAJORITY or _measures(found) or _NOBODY_BEFORE.search(found.before):
        return 0
    return MINOR if about_people else AMBIGUOUS


def not_yet(found: Statement) -> int:
    at_most = _NOBODY_BEFORE.search(found.before) or _measures(found)
    return MINOR if min(found.numbers) == MAJORITY and not at_most else 0


def short_of(found: Statement) -> int:
    """N years short of M: the second number less the first."""
    if not 10 <= found.numbers[-1] <= 21 or _measures(found):
        return 0
    less = found.numbers[0] if len(found.numbers) == 2 and found.unit.startswith("y") else 1
    return _by([found.numbers[-1] - less])


def school_year(found: Statement) -> int:
    return MINOR if 1 <= min(found.numbers) <= 12 and not words.GRADE_OF_A_THING.search(found.after) else 0


def open_school_year(found: Statement) -> int:
    return AMBIGUOUS if school_year(found) and not _THING_BEFORE.search(found.before + " is ") else 0


def birth_year(found: Statement) -> int:
    """No clock says how long ago that is, so the years that may be too late are open."""
    year = found.numbers[0]
    if _THING_BEFORE.search(found.before + " is ") or year < words.OPEN_FROM:
        return 0
    return MINOR if year >= words.MINOR_FROM else AMBIGUOUS


def in_other_language(found: Statement) -> int:
    """N ans, N años: an age or a duration."""
    if _DURATION_BEFORE.search(found.before) or _DURATION_AFTER.search(found.after) or _of_a_thing(found):
        return 0
    return _by(found.numbers)


def says(flags: int) -> Callable[[Statement], int]:
    return lambda found: 0 if _NOBODY_BEFORE.search(found.before) else flags


def _by(ages: Iterable[float]) -> int:
    return MINOR if min(ages) < MAJORITY else ADULT


def _of_a_thing(found: Statement) -> bool:
    return bool(_THING_AFTER.search(found.after) or _THING_BEFORE.search(found.before))


def _measures(found: Statement) -> bool:
    """Whether the number counts or measures something else."""
    after = _YEARS_SPENT_AFTER if _YEARS_AFTER.search(found.after) else _MEASURE_AFTER
    return bool(after.search(found.after))
