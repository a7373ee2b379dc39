"""Ages that a text states, however it states them. Pure, by RE2: linear in the text.

age_forms.py lists how they are stated, age_meanings.py says what a number means, age_words.py has their words.
"""

import re2
from ahocorasick_rs import BytesAhoCorasick, Implementation

from orchestrator.policy.age_forms import FORMS, OF_NAME, OTHER_SCRIPTS, Form, any_form
from orchestrator.policy.age_meanings import Statement
from orchestrator.policy.age_words import number
from orchestrator.policy.lexicon import AMBIGUOUS, MINOR
from orchestrator.policy.normalise import own_script

_BEFORE, _AFTER = 48, 40  # characters looked at around a match
_SOME_NUMBER = re2.compile(r"[0-9]|teen\b|\b(?:three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b")
_NEEDED = sorted({need for form in FORMS for need in form.needs})
_NEEDS = BytesAhoCorasick([need.encode() for need in _NEEDED], implementation=Implementation.DFA)
_ANY_FORM = any_form()


def flags_of(plain: str, text: str, apart: str = "") -> int:
    """MINOR, AMBIGUOUS and ADULT, by the ages that a text states. `plain` is its plain form. Of texts that were joined,
    `apart` is the same less closely joined: what stands there too was judged there, with what is written around it."""
    if not may_state(plain, text):
        return 0 if text.isascii() else _found(OTHER_SCRIPTS, own_script(text), apart)
    flags = 0
    numbers = bool(_SOME_NUMBER.search(plain))
    hits = _NEEDS.find_matches_as_indexes(plain.encode("ascii", "replace"), overlapping=True)
    needs = {_NEEDED[hit[0]] for hit in hits}
    for form in FORMS:
        if (numbers if not form.needs else not needs.isdisjoint(form.needs)) and not flags & MINOR:
            flags |= _found(form, plain, apart)
    if numbers and not flags & (MINOR | AMBIGUOUS):
        flags |= _found(OF_NAME, text, apart)
    if not text.isascii() and not flags & MINOR:
        flags |= _found(OTHER_SCRIPTS, own_script(text), apart)
    return flags


def may_state(plain: str, text: str) -> bool:
    """Whether something has the form of a statement of age, whatever it means; ages in other scripts apart. One look
    for all forms: most texts state none."""
    ways = (text,) if text.isascii() and plain == text.lower() else (plain, text)
    return any(_ANY_FORM.search(way.encode("utf-8", "replace")) for way in ways)


def _found(form: Form, text: str, apart: str = "") -> int:
    """What the matches of a form mean together. Nothing is added to a minor: it ends the search."""
    flags = 0
    for match in form.pattern.finditer(text):
        if apart and match.group() in apart:
            continue
        groups = match.groupdict()
        numbers = [number(groups[name]) for name in ("n", "m", "o") if groups.get(name)]
        start, end = match.span()
        before, after = text[max(0, start - _BEFORE) : start], text[end : end + _AFTER]
        flags |= form.means(Statement(numbers, before, after, groups.get("u") or ""))
        if flags & MINOR:
            break
    return flags
