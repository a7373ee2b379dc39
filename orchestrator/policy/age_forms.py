"""The forms that a statement of age takes: each a pattern, the words without which it cannot match, and what its number
means (age_py). Numbers are the groups `n`, and `m` of a range; `u` is the unit."""

from collections.abc import Callable
from typing import NamedTuple

import re2

from orchestrator.policy import age_meanings as age
from orchestrator.policy import age_words as words
from orchestrator.policy.age_meanings import Statement
from orchestrator.policy.age_words import NUMBER, ORDINAL, PERSON
from orchestrator.policy.lexicon import AMBIGUOUS, MINOR


class Form(NamedTuple):
    needs: tuple[str, ...]  # none of these in the text: no match
    means: Callable[[Statement], int]
    pattern: "re2._Regexp"


_RANGE = rf"(?P<n>{NUMBER})(?:\s*(?:-|/|to|or|and|through|until)\s*(?P<m>{NUMBER}))?"
_FRACTION = r"(?:[\s-]+and[\s-]+(?:a[\s-]+half|a[\s-]+quarter|three[\s-]+quarters|a[\s-]+bit|\w+[\s-]+months?))?"
_SOFTLY = rf"(?:[\s,]+(?:{words.ADVERB}))*[\s,~\"'(*_>]*"
_IS = (
    r"(?:'s|'m|'re|'(?:ll|d)\s+be|\s+(?:is|was|am|are|were|be|being|(?:will|would)\s+be|ha[sd]\s+been|looks?|looked"
    r"|seems?|seemed|appears?|appeared|acts?)(?:\s+like)?)"
)
_WHO = rf"(?:she|he|i|who|they|we|you|{PERSON})"
_END = r"\s*(?:[,.;:!?)\]/\n-]|$|(?:and|who|with|in|on|at|but|from|is|was|wearing|sits|stands|lies|posing)\b)"


def _form(needs: str, means: Callable[[Statement], int], *pattern: str) -> Form:
    """`pattern`: its parts, for they are long."""
    return Form(tuple(filter(None, needs.split(","))), means, re2.compile("".join(pattern)))


FORMS = (
    _form(
        "year,yr,y/o,y.o,yo,month,week,day,summer,winter",
        age.in_years,
        rf"\b{_RANGE}(?:-?ish)?{_FRACTION}[\s-]*(?:(?P<u>years?|yrs?|months?|weeks?|days?)[\s.-]*(?:olds?\b",
        r"|of[\s-]age\b|young\b|of[\s-]life\b)|year[\s-]+(?:girl|boy|female|male|lass|lad|teen)s?\b|(?:yo|y/o",
        r"|y\.\s?o\.?|yrs?\s*/\s*o)(?:[^a-z]|$)|summers?\b|winters?\b)",
    ),
    _form(
        "age",
        age.by_label,
        r"\bage[sd]?(?:[\s:=,\"'(\[>*~_-]|(?:is|was|of|group|range|bracket|about|around|only|just|between|from|at",
        rf"|roughly|approximately|barely|maybe|years|yrs|number|now|under|below))*{_RANGE}\b",
    ),
    _form("yr", age.open_age, rf"\b{_RANGE}[\s-]*yrs?{_END}"),
    _form("", age.open_age, rf"\b(?:just|only|barely|now|still|merely|a mere){_SOFTLY}\s+{_RANGE}{_END}"),
    _form(
        "",
        age.of_person,
        r"\b(?:she|he|i|they)(?:\s+(?:just|had|has|have|only|finally))*\s+(?:became|become|reach(?:ed|es)?",
        rf"|hits?){_SOFTLY}{_RANGE}\b|\b(?:she|he)\s*[(\[]{_SOFTLY}(?P<o>{NUMBER})\s*[)\]]",
    ),
    _form("", age.of_person, rf"\b{_WHO}{_IS}{_SOFTLY}{_RANGE}\b"),
    _form("", age.before_punctuation, rf"\b(?:im|ive|shes|hes|theyre|youre|id|she|he|i){_SOFTLY}\s+{_RANGE}{_END}"),
    _form("", age.of_person, rf"\b(?:im|shes|hes){_SOFTLY}\s+{_RANGE}\b|\b(?:{PERSON})\s*[,(]\s*(?P<o>{NUMBER})\b"),
    _form("", age.of_person, rf"\b(?:{PERSON})\s+of{_SOFTLY}\s*{_RANGE}\b"),
    _form("", age.before_punctuation, rf"\b(?:{PERSON})\s*[,:(\[/-]?{_SOFTLY}{_RANGE}{_END}"),
    _form("", age.open_age, rf"\bat\s+(?:only\s+|just\s+|about\s+)?{_RANGE}\s*,?\s*(?:she|he|i|they)\b"),
    _form("", age.open_age, rf"\b{_RANGE}[\s,/]*(?:(?:female|male|girl|boy|f)(?:\s*[,.;:!?)/]|\s*$)|/\s*[fm]\b)"),
    _form("", age.open_age, rf"(?:^|[\s(])[fm]\s*,\s*{_RANGE}\b"),
    _form(
        "turn",
        age.of_person,
        rf"\b(?:turn(?:s|ed|ing)|(?:to|will|'ll|would|not|n't|gonna|soon|just|she|he|i|yet)\s+turn){_SOFTLY}{_RANGE}\b",
    ),
    _form("goin", age.of_person, rf"\b(?P<n>{NUMBER})[\s-]+goin'?g?[\s-]+on[\s-]+{NUMBER}\b"),
    _form(
        "age",
        age.by_label,
        rf"\b{_RANGE}\s+(?:is|was|being)\s+(?:her|his|their|my|your)\s+(?:real\s+|true\s+|actual\s+|own\s+)?age\b",
    ),
    _form(
        "celebrat",
        age.open_age,
        rf"\bcelebrat(?:e|es|ed|ing)\s+(?:her|his|their|my|turning)\s+(?P<n>{ORDINAL}|{NUMBER})(?:th)?(?:\s*[,.;!?]|\s*$)",
    ),
    _form(
        "lived,alive,walked",
        age.open_age,
        r"\b(?:lived|alive|walked)\s+(?:(?:the|this)\s+earth\s+)?(?:for\s+)?(?:only\s+|just\s+|all\s+of\s+",
        rf"|barely\s+)?(?P<n>{NUMBER})\s+(?:years|summers|winters|springs)(?:\s+(?:on|in)\s+(?:this\s+",
        r"|the\s+)?(?:earth|world))?(?:\s*[,.;!?]|\s*$)",
    ),
    _form(
        "birthday,bday,b-day",
        age.of_birthday,
        rf"\b(?P<n>{ORDINAL}|{NUMBER})(?:st|nd|rd|th)?[\s-]*(?:birth\s?day|b-?day)|\bb(?:irth|-)?day\s*(?:number",
        rf"|no\.?|nr\.?|#|:|candles?|\()\s*(?P<m>{NUMBER})\b",
    ),
    _form(
        "year,summer,winter,spring",
        age.open_age,
        rf"\b(?:her|his|their|my)\s+(?:very\s+)?(?P<n>{ORDINAL}|{NUMBER})\s+(?:years?|summers?|winters?",
        r"|springs?)(?:\s+(?:of|on)\s+(?:age|life|earth))?(?:\s*[,.;!?]|\s*$)",
    ),
    _form(
        "under,below,younger,less",
        age.under,
        rf"\b(?P<u>under|below|younger than|less than)[\s-]+(?:the\s+)?(?:age\s+)?(?:of\s+)?(?P<n>{NUMBER})(?:s|\b)",
    ),
    _form(
        "than,over,beyond,<",
        age.under,
        r"\b(?:no|not|\w+n't|never)\s+(?:a\s+day\s+|much\s+|any\s+|yet\s+|even\s+)*(?P<u>older\s+than|over",
        rf"|more\s+than|beyond)\s+(?P<n>{NUMBER})\b|<\s*=?\s*(?P<m>18)\b",
    ),
    _form(
        "18,eighteen",
        age.not_yet,
        r"\b(?:(?:not|\w+n't|never|yet)(?:\s+(?:yet|even|quite|been|to|be|turn|turned|reached|reach|a|the|age|of",
        r"|over|older|than|celebrated|had|her|his|their|my))*|almost|nearly|not quite|close to|approaching|barely",
        r"|soon(?:\s+to\s+be)?|about\s+to\s+(?:be|turn)|(?:before|until|till|when)(?:\s+(?:she's|he's|i'm|she|he|i",
        r"|they|turning|turns?|is|am|are|becomes?|being|reaching|her|his|their|my|the|age",
        r"|of))+)\s+(?:turning\s+)?(?P<n>18|eighteen)(?:th)?\b",
    ),
    _form(
        "turn", age.says(MINOR), r"\bturn(?:s|ing)?\s+(?P<n>18|eighteen)\s+(?:next|in|this|on|tomorrow|soon|later)\b"
    ),
    _form(
        "year,month,week,day",
        age.short_of,
        rf"(?:\b(?P<n>{NUMBER})|\b(?:a|an|few|several|some|half\s+a|couple(?:\s+of)?))\s+(?P<u>years?|months?|weeks?|days?)",
        r"\s+(?:(?:shy|short)\s+of|(?:away|off)(?:\s+from)?|younger\s+than|from|(?:before|until|till)",
        r"\s+(?:she|he|i|they|turning|reaching|being)(?:'s|'m|'re|'ll\s+be)?)(?:\s+(?:is|am|are|turns?|turning|being|reaching|her|his|their",
        rf"|becoming|the|age|of|will|be))*\s+(?P<m>{ORDINAL}|{NUMBER})(?:th)?\b",
    ),
    _form(
        "grade",
        age.school_year,
        rf"\b(?P<n>{ORDINAL})[\s-]*(?:grade(?:rs?)?)\b|\bgrade\s+(?P<m>{NUMBER})\s+(?:{words.PUPIL})",
    ),
    _form("grade,year", age.open_school_year, rf"\b(?:grade|in\s+year)\s+(?P<n>{NUMBER})\b"),
    _form(
        "year ,class ,form,klasse",
        age.school_year,
        rf"\b(?:year|class|form)\s+(?P<n>{NUMBER})\s+(?:{words.PUPIL})|\b(?:{words.PUPIL})\s+(?:is\s+)?(?:in|of",
        rf"|from)\s+(?:year|class|form)\s+(?P<m>{NUMBER})\b",
    ),
    _form("klasse,former", age.school_year, rf"\b(?P<n>\d{{1,2}}|{ORDINAL})\.?[\s-]*(?:klasse|klassler|former)\b"),
    _form(
        "born,birth,dob,d.o.b",
        age.birth_year,
        r"\b(?:born|dob|d\.o\.b\.?|birth\s?(?:date|day|year)?|year of birth|date of birth)(?:[\s:=,'\"(-]|\b(?:is",
        r"|was|in|on|of|around|after|the|early|late|mid)\b)*(?:(?:\d{1,2}(?:st|nd|rd|th)?",
        r"|[a-z]{3,9})[\s./,-]+){0,3}(?P<n>(?:19|20)\d\d)\b",
    ),
    _form(words.ABROAD_NEEDS, age.in_other_language, words.ABROAD),
    _form(words.MINOR_NEEDS, age.says(MINOR), words.MINOR_PHRASES),
    _form(words.OPEN_NEEDS, age.says(AMBIGUOUS), words.OPEN_PHRASES),
)
OF_NAME = Form((), age.of_name, re2.compile(words.NAMED))
OTHER_SCRIPTS = Form((), age.in_other_language, re2.compile(words.OTHER_SCRIPTS))


def any_form() -> "re2._Regexp":
    """Matches where any form does, also in a text that is not in lower case; only where is not told."""
    options = re2.Options()
    options.never_capture = True
    options.max_mem = 64 << 20
    forms = "|".join(f"(?:{form.pattern.pattern})" for form in FORMS)
    return re2.compile(_GROUP_NAME.sub("(?:", f"(?i:{forms})|{OF_NAME.pattern.pattern}"), options)


_GROUP_NAME = re2.compile(r"\(\?P<\w>")
