"""The lists of a policy: terms of its document, compiled into the engine that the floor's words are found by. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ahocorasick_rs import BytesAhoCorasick

from core.errors import InvalidRequest
from orchestrator.policy import normalise
from orchestrator.policy.normalise import Reading

MAX_RULES, MAX_TERMS, MAX_CHARACTERS, MAX_NESTED = 100, 20_000, 200, 16
_ALNUM = frozenset(normalise.LETTERS + b"0123456789")


@dataclass(frozen=True, eq=False)
class Rule:
    """One list of a policy, and the tiers that it holds in."""

    category: str
    tiers: frozenset[int]


@dataclass(frozen=True, eq=False)
class Terms:
    """All terms of a policy in one automaton for each way of writing: words and digits, or anything else."""

    words: BytesAhoCorasick
    words_of: tuple[frozenset[Rule], ...]
    others: BytesAhoCorasick
    others_of: tuple[frozenset[Rule], ...]

    @classmethod
    def of(cls, listed: Mapping[Rule, Iterable[str]]) -> "Terms":
        words: dict[bytes, set[Rule]] = {}
        others: dict[bytes, set[Rule]] = {}
        for rule, terms in listed.items():
            for term in terms:
                raw = term.encode()
                plain = _ALNUM.issuperset(raw.replace(b" ", b""))
                (words if plain else others).setdefault(b" %b " % raw if plain else raw, set()).add(rule)
        automata = [_automaton(group) for group in (words, others)]
        owners = [tuple(map(frozenset, group.values())) for group in (words, others)]
        return cls(automata[0], owners[0], automata[1], owners[1])

    def match(self, readings: Iterable[Reading]) -> set[Rule]:
        """The rules of which a term stands in the text."""
        found: set[Rule] = set()
        for reading in readings:
            for view in (reading.words_and_digits, *reading.disguised) if self.words_of else ():
                for pattern in {hit[0] for hit in self.words.find_matches_as_indexes(view, overlapping=True)}:
                    found |= self.words_of[pattern]
            if self.others_of:
                found |= self._literally(" ".join(reading.plain.split()).encode("utf-8", "replace"))
        return found

    def _literally(self, text: bytes) -> set[Rule]:
        """Terms with other signs or letters: as they stand, not inside a Latin word."""
        found: set[Rule] = set()
        for pattern, start, end in self.others.find_matches_as_indexes(text, overlapping=True):
            before = start > 0 and text[start - 1] in _ALNUM
            after = end < len(text) and text[end] in _ALNUM
            if not before and not after:
                found |= self.others_of[pattern]
        return found


def _automaton(terms: Collection[bytes]) -> BytesAhoCorasick:
    """Raises InvalidRequest where one place of a text could be the end of very many terms."""
    automaton = BytesAhoCorasick(terms)
    for term in terms:
        ends = Counter(end for _, _, end in automaton.find_matches_as_indexes(term, overlapping=True))
        if max(ends.values()) > MAX_NESTED:
            raise invalid(f"at most {MAX_NESTED} terms may end alike")
    return automaton


def read_rules(listed: Any, tiers: tuple[int, ...]) -> dict[Rule, list[str]]:
    """Each rule of a document's list with its terms in plain form. Raises InvalidRequest."""
    if not isinstance(listed, list | tuple) or len(listed) > MAX_RULES:
        raise invalid(f"`hard` and `soft` are lists of at most {MAX_RULES} {{category, terms, tiers}}")
    found = dict(_rule(entry, tiers) for entry in listed)
    if sum(map(len, found.values())) > MAX_TERMS:
        raise invalid(f"a list has at most {MAX_TERMS} terms together")
    return found


def _rule(entry: Any, tiers: tuple[int, ...]) -> tuple[Rule, list[str]]:
    if not isinstance(entry, dict) or set(entry) - {"category", "terms", "tiers"} or "category" not in entry:
        raise invalid("a rule is {category, terms, tiers}")
    terms, held = entry.get("terms", []), entry.get("tiers", tiers)
    if not isinstance(terms, list) or len(terms) > MAX_TERMS or not isinstance(held, list | tuple):
        raise invalid(f"`terms` are at most {MAX_TERMS} strings, `tiers` are of 0, 1, 2")
    if not all(isinstance(tier, int) and 0 <= tier <= 2 for tier in held):
        raise invalid("`tiers` are of 0, 1, 2")
    return Rule(str(entry["category"])[:100], frozenset(held)), [_term(term) for term in terms]


def _term(term: Any) -> str:
    """A term in plain form, with single spaces. Raises InvalidRequest where nothing would be left to look for."""
    if not isinstance(term, str) or len(term) > MAX_CHARACTERS:
        raise invalid(f"a term is a string of at most {MAX_CHARACTERS} characters")
    plain = " ".join(normalise.plain_form(term).split())
    if not plain:
        raise invalid("a term that has no visible character would match nothing")
    return plain


def invalid(what: str) -> InvalidRequest:
    return InvalidRequest(f"The policy document is not valid: {what}.", param="document", code="invalid_policy")
